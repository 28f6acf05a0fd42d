package rsync

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Pass is one run of rsync within a copy.
type Pass string

const (
	// PassData brings everything and deletes nothing; it tells how much would be deleted.
	PassData Pass = "Data"
	// PassReplace is a data pass that also removes directories which are in the way of
	// files, within the limit. It follows a data pass that found some.
	PassReplace Pass = "Replace"
	// PassDelete only deletes.
	PassDelete Pass = "Delete"
	// PassSample compares the content of some files.
	PassSample Pass = "Sample"
	// PassFull compares everything.
	PassFull Pass = "Full"
)

// Verify says how a copy is verified.
type Verify string

const (
	// VerifyNone trusts rsync's own checksums of what it sent.
	VerifyNone Verify = "None"
	// VerifySample compares the content of a random sample.
	VerifySample Verify = "Sample"
	// VerifyFull compares the content of everything.
	VerifyFull Verify = "Full"
)

// Settings say what of a volume is copied, and how.
type Settings struct {
	// Block copies one device instead of a tree.
	Block bool `json:"block,omitempty"`
	// NoHardLinks, NoACLs and NoXattrs leave out what the destination cannot keep, or
	// nobody needs: keeping hard links costs memory, the others a call per file.
	NoHardLinks bool `json:"noHardLinks,omitempty"`
	NoACLs      bool `json:"noACLs,omitempty"`
	NoXattrs    bool `json:"noXattrs,omitempty"`
	// Include and Exclude are patterns of paths as rsync knows them, from the volume's
	// root if they begin with a slash. What is included is never excluded.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// Delete deletes at the destination what the source does not have, if the deletions
	// are at most the larger of DeleteCount and DeletePercent of the source's files.
	Delete        bool `json:"delete,omitempty"`
	DeleteCount   int  `json:"deleteCount,omitempty"`
	DeletePercent int  `json:"deletePercent,omitempty"`
	// AllowEmpty allows an empty source to empty the destination, within the limit.
	AllowEmpty bool `json:"allowEmpty,omitempty"`
	// Live says that the source is in use: files may vanish and change meanwhile, and a
	// second data pass shortens the time that the copy spans.
	Live bool `json:"live,omitempty"`
	// Verify is VerifySample if empty.
	Verify Verify `json:"verify,omitempty"`
	// SampleFiles and SampleBytes bound a sample; 1000 and 1 GiB if zero.
	SampleFiles int   `json:"sampleFiles,omitempty"`
	SampleBytes int64 `json:"sampleBytes,omitempty"`
	// Compress has the data compressed on the wire.
	Compress bool `json:"compress,omitempty"`
}

// Bounds of settings.
const (
	maxPatterns      = 1000
	maxPattern       = 4096
	defaultFiles     = 1000
	defaultBytes     = 1 << 30
	defaultDeletions = 100
	maxPercent       = 100
)

// Validate says what is wrong with the settings.
func (s Settings) Validate() error {
	var errs []error
	switch s.Verify {
	case "", VerifyNone, VerifySample, VerifyFull:
	default:
		errs = append(errs, fmt.Errorf("verify %.20q is none of None, Sample, Full", string(s.Verify)))
	}
	if len(s.Include)+len(s.Exclude) > maxPatterns {
		errs = append(errs, fmt.Errorf("more than %d include and exclude patterns", maxPatterns))
	}
	for _, p := range append(append([]string(nil), s.Include...), s.Exclude...) {
		if p == "" || len(p) > maxPattern || strings.ContainsAny(p, "\x00\n\r") {
			errs = append(errs, fmt.Errorf("pattern %.60q is empty, too long, or has a line break", p))
		}
	}
	if s.DeleteCount < 0 || s.DeletePercent < 0 || s.DeletePercent > maxPercent || s.SampleFiles < 0 || s.SampleBytes < 0 {
		errs = append(errs, errors.New("a limit is negative, or a percentage above 100"))
	}
	if s.Block && (len(s.Include)+len(s.Exclude) > 0 || s.Delete) {
		errs = append(errs, errors.New("a block volume has no paths to exclude or delete"))
	}
	return errors.Join(errs...)
}

// Request is what the destination asks of the source: a pass, and of the settings
// what both ends must agree on. It holds no path and no argument.
type Request struct {
	Pass Pass `json:"pass"`
	// Version is the destination's rsync.
	Version  string `json:"version"`
	Block    bool   `json:"block,omitempty"`
	Links    bool   `json:"hardLinks,omitempty"`
	ACLs     bool   `json:"acls,omitempty"`
	Xattrs   bool   `json:"xattrs,omitempty"`
	Compress bool   `json:"compress,omitempty"`
}

// request is what a pass with these settings asks for.
func (s Settings) request(p Pass, v Version) Request {
	return Request{
		Pass: p, Version: v.String(), Block: s.Block,
		Links: !s.Block && !s.NoHardLinks, ACLs: !s.Block && !s.NoACLs, Xattrs: !s.Block && !s.NoXattrs, Compress: s.Compress,
	}
}

// parseRequest reads and checks a request of the peer.
func parseRequest(text []byte) (Request, error) {
	var r Request
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Request{}, errors.New("read the peer's request: it is not a request")
	}
	switch r.Pass {
	case PassData, PassReplace, PassDelete, PassSample, PassFull:
	default:
		return Request{}, errors.New("read the peer's request: there is no such pass")
	}
	if _, err := ParseVersion(r.Version); err != nil {
		return Request{}, errors.New("read the peer's request: it tells no version")
	}
	if r.Block && (r.Links || r.ACLs || r.Xattrs || r.Pass != PassData && r.Pass != PassFull) {
		return Request{}, errors.New("read the peer's request: that does not go with a block volume")
	}
	return r, nil
}
