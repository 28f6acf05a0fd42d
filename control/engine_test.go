package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// stage is an Engine whose runs show what the test says.
type stage struct {
	mu        sync.Mutex
	runs      []*actor // all that ever were, in order
	snapshots map[string]Snapshot
	deleteErr error
	deleted   []string
	forgotten []string
	letters   []string // owners of dead letters
}

// actor is a Runner.
type actor struct {
	stage   *stage
	owner   string
	spec    v1alpha1.ReplicationSpec
	from    pipeline.Position
	rules   *transform.Set
	fail    chan error
	running bool
}

func newStage() *stage { return &stage{snapshots: map[string]Snapshot{}} }

func (s *stage) Validate(spec v1alpha1.ReplicationSpec) []error {
	if strings.HasPrefix(spec.Source.Site, "bad") {
		return []error{errors.New("spec.source.site: choose another"), errors.New("spec.kinds: choose others")}
	}
	return nil
}

func (s *stage) New(w Wish) (Runner, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &actor{stage: s, owner: w.Owner.String(), spec: w.Spec, from: w.From, rules: w.Rules, fail: make(chan error)}
	s.runs = append(s.runs, a)
	return a, nil
}

func (s *stage) DeleteCopies(_ context.Context, owner types.NamespacedName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deleteErr != nil {
		return s.deleteErr
	}
	s.deleted = append(s.deleted, owner.String())
	return nil
}

func (s *stage) Forget(_ context.Context, owner types.NamespacedName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgotten = append(s.forgotten, owner.String())
	return nil
}

func (s *stage) Sweep(_ context.Context, exists func(owner string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgotten = slices.Concat(s.forgotten, slices.DeleteFunc(slices.Clone(s.letters), exists))
	return nil
}

// show sets what the runs of an owner say of themselves.
func (s *stage) show(owner string, snap Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots[owner] = snap
}

// of returns the runs of an owner, and how many of them are running.
func (s *stage) of(owner string) (runs []*actor, running int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.runs {
		if a.owner == owner {
			runs = append(runs, a)
			if a.running {
				running++
			}
		}
	}
	return runs, running
}

func (s *stage) has(list *[]string, owner string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(*list, owner)
}

func (a *actor) Run(ctx context.Context) error {
	a.set(true)
	defer a.set(false)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-a.fail:
		return err
	}
}

func (a *actor) set(running bool) {
	a.stage.mu.Lock()
	defer a.stage.mu.Unlock()
	a.running = running
}

func (a *actor) Snapshot() Snapshot {
	a.stage.mu.Lock()
	defer a.stage.mu.Unlock()
	return a.stage.snapshots[a.owner]
}

// rules names the user's rules of the owner's only running run, nil without one.
func (s *stage) rules(owner string) []string {
	runs, running := s.of(owner)
	if running != 1 {
		return nil
	}
	names := []string{}
	for _, r := range runs[len(runs)-1].rules.Rules() {
		if r.Origin.ConfigMap != "" {
			names = append(names, r.Name)
		}
	}
	return names
}
