package natslog

import (
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Subjects of current streams mirror those of the histories under another
// prefix, so that no publisher can write to both.
const currentPrefix = "cur.v1"

// Metadata of streams, for operators and against mistaking a foreign stream for ours.
const (
	metaSite   = "drs.site"
	metaEpoch  = "drs.epoch"
	metaFormat = "drs.format"
	// metaAfter, on a history, is the position at which the epoch before had ended.
	metaAfter = "drs.after"
	// metaWhole stands on the history of an epoch that says of every object what the
	// current state says: whoever has it needs none before.
	metaWhole = "drs.whole"
	// metaFollow tells which subscription a consumer belongs to, metaAttempt which
	// of its attempts made it.
	metaFollow  = "drs.follow"
	metaAttempt = "drs.attempt"

	formatVersion = "1"
)

// Headers of ours that are not part of the wire form: they belong to the way a
// message is stored.
const (
	// headerAppend stands on the last message of each append and names the append.
	headerAppend = "Drs-Append"
	// headerClaim stands in place of a body that is kept in the claims stream.
	headerClaim = "Drs-Claim"

	headerStreamSource  = "Nats-Stream-Source"
	headerTimeStamp     = "Nats-Time-Stamp"
	headerExpectStream  = "Nats-Expected-Stream"
	headerExpectLastSeq = "Nats-Expected-Last-Sequence"
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSeq      = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
	// headerRequestInfo is on requests that cross from one account to another.
	headerRequestInfo = "Nats-Request-Info"
)

// site is a site's token, from which all its names are built.
type site struct{ name, token string }

func siteOf(name string) site { return site{name: name, token: pipeline.EscapeToken(name)} }

func (s site) history(epoch string) string { return "H_" + s.token + "_" + epoch }
func (s site) current() string             { return "C_" + s.token }
func (s site) claims() string              { return "B_" + s.token }

func (s site) all() string          { return pipeline.SubjectPrefix + "." + s.token + ".>" }
func (s site) objects() string      { return pipeline.SubjectPrefix + "." + s.token + ".obj.>" }
func (s site) marks() string        { return pipeline.SubjectPrefix + "." + s.token + ".mark.>" }
func (s site) currentAll() string   { return currentPrefix + "." + s.token + ".>" }
func (s site) claimSubject() string { return pipeline.SubjectPrefix + "." + s.token + ".blob" }
func (s site) control() string      { return pipeline.SubjectPrefix + "." + s.token + ".ctl" }

// announce is where the beginning of an epoch is said, to whoever follows.
func (s site) announce() string { return s.control() + ".begun" }

// closed is what an ended epoch's stream listens on: nobody publishes there.
func (s site) closed(epoch string) string {
	return pipeline.SubjectPrefix + "." + s.token + ".closed." + epoch
}

// epochOf is the inverse of history: the epoch of a stream of this site.
func (s site) epochOf(stream string) (string, bool) {
	epoch, ok := strings.CutPrefix(stream, "H_"+s.token+"_")
	if !ok {
		return "", false
	}
	return epoch, validEpoch(epoch)
}

// parsePosition is the inverse of pipeline.Position.String for the positions that
// metadata hold; anything else is zero.
func parsePosition(text string) pipeline.Position {
	epoch, number, _ := strings.Cut(text, "/")
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil || !validEpoch(epoch) {
		return pipeline.Position{}
	}
	return pipeline.Position{Epoch: epoch, Seq: seq}
}

func validEpoch(epoch string) bool {
	_, err := ulid.ParseStrict(epoch)
	return err == nil
}

// originOf reads where a message of a current stream came from. The header is
// "<stream> <sequence> <filter> <transform> <subject> [<identity>]", the stream
// followed by ":<hash>" when it lives in another domain.
func (s site) originOf(header string) (at pipeline.Position, subject string, ok bool) {
	fields := strings.Fields(header)
	if len(fields) < 5 {
		return at, "", false
	}
	stream, _, _ := strings.Cut(fields[0], ":")
	epoch, ok := s.epochOf(stream)
	if !ok {
		return at, "", false
	}
	seq, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil || seq == 0 {
		return at, "", false
	}
	return pipeline.Position{Epoch: epoch, Seq: seq}, fields[4], true
}

// consumerName makes any text a consumer's name, without two texts sharing one.
func consumerName(name string) string { return pipeline.EscapeToken(name) }

// SiteInboxPrefix is the inbox prefix that a site's user at the embedded server
// may subscribe to; see ConnectConfig.InboxPrefix.
func SiteInboxPrefix(name string) string { return "_INBOX_" + siteOf(name).token }

// requestTimeout bounds one question to the server when the caller's context
// does not.
const requestTimeout = 10 * time.Second

// ofDestination names a stream that belongs to a destination, and what its subjects begin with.
func ofDestination(dest, stream, kind string) (name, prefix string) {
	token := pipeline.EscapeToken(dest)
	return stream + "_" + token, pipeline.SubjectPrefix + "." + token + "." + kind
}
