package transfer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// The marks on what a transfer makes.
const (
	// LabelTransfer on a Pod or Secret is the UID of the VolumeTransfer that it is of.
	LabelTransfer = "dr-syncer.io/volume-transfer"
	// LabelEpoch is the attempt, LabelEnd the end: source or destination.
	LabelEpoch = "dr-syncer.io/volume-epoch"
	LabelEnd   = "dr-syncer.io/volume-end"
	// LabelSession on what a source makes is the session that it is for.
	LabelSession = "dr-syncer.io/volume-session"
	// LabelClaim on a claim or a snapshot says that it was made for copies of a volume.
	LabelClaim = "dr-syncer.io/volume-copy"
	// AnnotationPrevent with the value "true" on a source's claim or its namespace keeps it from being read.
	AnnotationPrevent = "dr-syncer.io/prevent-volume-copy"
)

// All names are made from what they stand for, so that whoever makes it again finds it made.

// sessionID is the session of an attempt: 32 hex digits.
func sessionID(transfer string, epoch uint64) string {
	const digits = 32
	return digest("session", transfer, number(epoch))[:digits]
}

// moverName is the Pod of the destination's mover: one per claim.
func moverName(claimUID string) string { return "drs-mover-" + short("mover", claimUID) }

// identityName is the secret of an attempt at the destination.
func identityName(transfer string, epoch uint64) string {
	return "drs-mover-" + short("identity", transfer, number(epoch))
}

// serverName is the Pod and the Secret of a session at the source.
func serverName(session string) string { return "drs-source-" + short("source", session) }

// snapshotName is the recovery point of an attempt.
func snapshotName(transfer string, epoch uint64) string {
	return "drs-copy-" + short("snapshot", transfer, number(epoch))
}

func number(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

func short(parts ...string) string {
	const digits = 16
	return digest(parts...)[:digits]
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// jitter is a number from 0 to 1 that differs between transfers and attempts.
func jitter(transfer string, epoch uint64) float64 {
	sum := sha256.Sum256([]byte(transfer + number(epoch)))
	return float64(binary.BigEndian.Uint16(sum[:])) / (1 << 16)
}
