package pipeline

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"
	"time"
)

// ErrNoSnapshot reports a snapshot that is not there.
var ErrNoSnapshot = errors.New("there is no such snapshot")

// ErrDamaged reports a snapshot file that is not what was written, or never was one.
var ErrDamaged = errors.New("the snapshot is damaged")

// SnapshotFormat is the version of the file format that SnapshotWriter writes.
const SnapshotFormat = 1

// Manifest describes a snapshot: the state of a site at one position.
type Manifest struct {
	// Format is the version of the file's format.
	Format int `json:"format"`
	// Name tells the site's snapshots apart. It is made from the position: two
	// snapshots of one position are the same.
	Name string `json:"name"`
	Site string `json:"site"`
	// Moment is the position whose state it is, and when the record there was stored.
	Moment
	// Created is when it was made.
	Created time.Time `json:"created"`
	// Objects counts the objects that exist, by kind ("group/resource").
	Objects map[string]int `json:"objects"`
	// Records counts all records: tombstones, releases and the heartbeat too.
	Records int `json:"records"`
	// Digest is the SHA-256 of the records as they stand in the file: one state has one
	// digest.
	Digest string `json:"digest"`
	// Kept is set if it goes only when it is deleted by hand. It is not in the file.
	Kept bool `json:"kept,omitempty"`
	// Size is that of the file in bytes. It is not in the file.
	Size int64 `json:"size,omitempty"`
}

// Total is the number of objects that exist.
func (m Manifest) Total() int {
	n := 0
	for _, count := range m.Objects {
		n += count
	}
	return n
}

// SnapshotName names the snapshot of a position.
func SnapshotName(p Position) string {
	return fmt.Sprintf("%s-%d", strings.ToLower(p.Epoch), p.Seq)
}

// contents accumulates what a manifest says of the records.
type contents struct {
	site    string
	objects map[string]int
	records int
	last    Position
	sum     hash.Hash
}

func contentsOf(site string) contents {
	return contents{site: site, objects: map[string]int{}, sum: sha256.New()}
}

// add takes the next record, as it stands in the file.
func (c *contents) add(r Record, line, body []byte) error {
	if r.Position.Compare(c.last) <= 0 {
		return fmt.Errorf("record %s stands after record %s", r.Position, c.last)
	}
	c.last = r.Position
	c.records++
	if r.Op == OpPut {
		c.objects[r.Ref.GroupResource().String()]++
	}
	c.sum.Write(line)
	c.sum.Write(body)
	return nil
}

// manifest describes what was added.
func (c *contents) manifest(at Moment, created time.Time) (Manifest, error) {
	if c.last.Compare(at.Position) > 0 {
		return Manifest{}, fmt.Errorf("record %s stands after the snapshot's position %s", c.last, at.Position)
	}
	return Manifest{
		Format: SnapshotFormat, Name: SnapshotName(at.Position), Site: c.site,
		Moment:  Moment{Position: at.Position, Time: at.Time.UTC()},
		Created: created.UTC(), Objects: c.objects, Records: c.records, Digest: hex.EncodeToString(c.sum.Sum(nil)),
	}, nil
}

// CompareManifests orders by position.
func CompareManifests(a, b Manifest) int {
	return cmp.Or(a.Position.Compare(b.Position), strings.Compare(a.Name, b.Name))
}
