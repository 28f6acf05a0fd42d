package collect

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// TestLostRecordsArePutAnew has a real log whose current state is limited too low for what there is, so that its
// history passes over what that lacks: the collector puts everything anew, and deletes nothing.
func TestLostRecordsArePutAnew(t *testing.T) {
	const objects, size = 40, 60 << 10
	_, conn := embedded(t, func(*natslog.ServerConfig) {})
	opts := natslog.DefaultStreamOptions()
	opts.CurrentMaxBytes, opts.MaxBytes = 1<<20, 8<<20
	s := &shelf{version: 10, objects: map[string]kube.Object{}, noisy: true}
	for i := range objects {
		s.put(fmt.Sprintf("object-%d", i), size)
	}
	runOn(t, s, conn, opts)
	// read returns the versions that the log knows; ok is false while it cannot tell.
	read := func() (versions map[string]string, deleted int, err error) {
		versions = map[string]string{}
		for r, err := range conn.History(testSite).Current(t.Context(), pipeline.Query{HeadersOnly: true}) {
			switch {
			case err != nil:
				return versions, deleted, err
			case r.Op == pipeline.OpDelete:
				deleted++
			case r.Op == pipeline.OpPut:
				versions[r.Ref.Name] = r.Version
			}
		}
		return versions, deleted, nil
	}
	whole := func() string {
		versions, deleted, err := read()
		if err != nil || deleted > 0 {
			return fmt.Sprintf("%d deleted, %v", deleted, err)
		}
		return cmp.Diff(s.versions(), versions)
	}
	waitUntil(t, "the log holds everything", whole)
	before, err := conn.History(testSite).State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// One object's changes push the others out of the history.
	waitUntil(t, "a new epoch", func() string {
		s.put("object-0", size)
		now, err := conn.History(testSite).State(t.Context())
		if err != nil || now.Last.Epoch == before.Last.Epoch {
			return fmt.Sprintf("%+v, %v", now, err)
		}
		return ""
	})
	waitUntil(t, "everything is there again", whole)
}
