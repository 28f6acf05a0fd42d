package transfer

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// The model: some transfers, two of them into one claim, a gate, a source that obeys leases, and one who runs the
// steps and dies at any moment, leaving actions behind that happen late, twice, or never.

const modelLease = time.Minute

type modelTransfer struct {
	key, claim string
	terms      Terms
	state      State
	deleted    bool
	suspended  bool
	identities map[uint64]bool
	// wishes are what the source knows of, and until when; served what it has made.
	wishes map[uint64]time.Time
	served map[uint64]bool
	refuse bool
	shot   map[uint64]Snapshot
	past   []World // what was seen before
}

type modelPod struct {
	of    string
	mover Mover
}

type lateAction struct {
	of     *modelTransfer
	action Action
}

type model struct {
	now       time.Time
	transfers []*modelTransfer
	claims    map[string]bool
	pods      map[string]*modelPod // by claim: a name is there once
	gate      *Gate
	caps      Caps
	late      []lateAction
	snapshots bool
}

func newModel(t *rapid.T) *model {
	m := &model{
		now: time.Unix(1_700_000_000, 0), claims: map[string]bool{}, pods: map[string]*modelPod{},
		caps: Caps{Total: rapid.IntRange(1, 3).Draw(t, "cap")}, snapshots: rapid.Bool().Draw(t, "snapshots"),
	}
	for i, claim := range []string{"a", "b", "b", "c"} {
		m.transfers = append(m.transfers, &modelTransfer{
			key: fmt.Sprint(i), claim: claim, identities: map[uint64]bool{}, wishes: map[uint64]time.Time{}, served: map[uint64]bool{}, shot: map[uint64]Snapshot{},
			terms: Terms{
				Snapshots: rapid.SampledFrom([]v1alpha1.VolumeSnapshots{v1alpha1.SnapshotsAuto, v1alpha1.SnapshotsRequire, v1alpha1.SnapshotsNever}).Draw(t, "policy"),
				Attempts:  rapid.IntRange(1, 4).Draw(t, "attempts"), Timeout: time.Hour, Jitter: 0.5,
			},
		})
	}
	m.restart()
	return m
}

// restart is a new process: all that it knows is what was written down.
func (m *model) restart() {
	inside := map[string]Place{}
	for _, x := range m.transfers {
		if x.state.Busy() {
			inside[x.key] = Place{Claim: x.claim}
		}
	}
	m.gate = NewGate(m.caps, inside)
}

// look is the world of a transfer as it is.
func (m *model) look(x *modelTransfer) World {
	w := World{Deleted: x.deleted, Suspended: x.suspended, Claim: Claim{Exists: m.claims[x.claim], Fits: m.claims[x.claim]}}
	w.Identities = slices.Sorted(maps.Keys(x.identities))
	if p := m.pods[x.claim]; p != nil {
		mover := p.mover
		mover.Ours = p.of == x.key
		w.Mover = &mover
	}
	e := x.state.Epoch
	w.Source.State = SourceSilent
	if until, ok := x.wishes[e]; ok && m.now.Before(until) {
		w.Source.State = SourcePreparing
		if x.served[e] {
			w.Source.State = SourceServing
		}
		if x.refuse {
			w.Source = Source{State: SourceRefused, Message: "no", Class: Refused}
		}
	}
	w.Snapshot = x.shot[e]
	w.Snapshot.Possible = m.snapshots
	return w
}

// run observes, steps, writes down and acts, or dies before the nth action.
func (m *model) run(x *modelTransfer, w World, dieBefore int, delay func() bool) {
	if w.Admitted = false; x.state.Phase == "" || x.state.Phase == v1alpha1.VolumeTransferPending {
		if !w.Suspended && !w.Deleted && !m.now.Before(x.state.NotBefore) {
			w.Admitted, _ = m.gate.Enter(x.key, Place{Claim: x.claim})
		}
	}
	next, actions := Step(x.terms, x.state, w, m.now)
	x.state = next
	for i, a := range actions {
		if i == dieBefore {
			m.restart()
			return
		}
		if delay() {
			m.late = append(m.late, lateAction{x, a})
			continue
		}
		m.act(x, a)
	}
}

// act does what the runner does, with what the API server answers.
func (m *model) act(x *modelTransfer, a Action) {
	switch a.Kind {
	case Ask:
		x.wishes[a.Epoch] = m.now.Add(modelLease)
	case Withdraw:
		delete(x.wishes, a.Epoch)
	case MakeIdentity:
		x.identities[a.Epoch] = true
	case DropIdentity:
		delete(x.identities, a.Epoch)
	case MakeClaim:
		m.claims[x.claim] = true
	case StartMover:
		if m.pods[x.claim] == nil && x.identities[a.Epoch] {
			m.pods[x.claim] = &modelPod{of: x.key, mover: Mover{Epoch: a.Epoch}}
		}
	case StopMover:
		if p := m.pods[x.claim]; p != nil && p.of == x.key && p.mover.Epoch == a.Epoch {
			delete(m.pods, x.claim)
		}
	case MakeSnapshot:
		x.shot[a.Epoch] = Snapshot{Exists: true}
	case PruneSnapshots:
	case Leave:
		if !x.state.Busy() { // who acts late has lost the gate with its process
			m.gate.Leave(x.key)
		}
	}
}

// proceed has what surrounds a transfer go on.
func (m *model) proceed(x *modelTransfer, class Class) {
	for e, until := range x.wishes {
		if m.now.Before(until) {
			x.served[e] = true
		}
	}
	for e := range x.served { // the source's own cleaning
		if !m.now.Before(x.wishes[e]) {
			delete(x.served, e)
			delete(x.wishes, e)
		}
	}
	if s, ok := x.shot[x.state.Epoch]; ok && s.Exists {
		s.Ready = true
		x.shot[x.state.Epoch] = s
	}
	p := m.pods[x.claim]
	switch {
	case p == nil || p.of != x.key || p.mover.Ended:
	case !p.mover.Running:
		p.mover.Running = true
	case !p.mover.Verifying:
		p.mover.Verifying = true
	default:
		p.mover.Ended, p.mover.Running, p.mover.Outcome = true, false, Outcome{Class: class}
	}
}

func (m *model) check(t *rapid.T) {
	busy, claims := 0, map[string]int{}
	for _, x := range m.transfers {
		if x.state.Busy() {
			busy++
			claims[x.claim]++
		}
		if x.state.Failures > x.terms.Attempts {
			t.Fatalf("transfer %s failed %d times of %d", x.key, x.state.Failures, x.terms.Attempts)
		}
	}
	if busy > m.caps.Total {
		t.Fatalf("%d transfers are under way, the cap is %d", busy, m.caps.Total)
	}
	for claim, n := range claims {
		if n > 1 {
			t.Fatalf("%d transfers of claim %s", n, claim)
		}
	}
}

var everyEnd = []Class{Done, Transient, Permanent, Storage, Partial, Vanished, TooManyDeletions, Memory, Different, Canceled}

// TestStepEnds has transfers run in the model under any interleaving of deaths, late and repeated actions and old observations. Never
// too many are under way, never two of one claim; and once all can proceed, each ends, and leaves nothing behind.
func TestStepEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		pick := func() *modelTransfer { return rapid.SampledFrom(m.transfers).Draw(t, "of") }
		never := func() bool { return false }
		t.Repeat(map[string]func(*rapid.T){
			"Run": func(*rapid.T) {
				x := pick()
				w := m.look(x)
				x.past = append(x.past, w)
				m.run(x, w, -1, never)
			},
			"RunLate": func(t *rapid.T) {
				x := pick()
				m.run(x, m.look(x), -1, func() bool { return rapid.Bool().Draw(t, "late") })
			},
			"RunOld": func(t *rapid.T) {
				x := pick()
				if len(x.past) == 0 {
					t.Skip("nothing was seen yet")
				}
				w := rapid.SampledFrom(x.past).Draw(t, "old")
				w.Deleted, w.Suspended = x.deleted, x.suspended
				m.run(x, w, -1, never)
			},
			"Die": func(t *rapid.T) { x := pick(); m.run(x, m.look(x), rapid.IntRange(0, 3).Draw(t, "before"), never) },
			"Late": func(t *rapid.T) {
				if len(m.late) == 0 {
					t.Skip("nothing is late")
				}
				a := rapid.SampledFrom(m.late).Draw(t, "action") // it stays: it may happen again
				m.act(a.of, a.action)
			},
			"Proceed": func(t *rapid.T) { m.proceed(pick(), rapid.SampledFrom(everyEnd).Draw(t, "class")) },
			"Time": func(t *rapid.T) {
				m.now = m.now.Add(rapid.SampledFrom([]time.Duration{time.Second, 30 * time.Second, 5 * time.Minute, 2 * time.Hour}).Draw(t, "later"))
			},
			"Suspend":   func(*rapid.T) { x := pick(); x.suspended = !x.suspended },
			"Delete":    func(*rapid.T) { pick().deleted = true },
			"Refuse":    func(*rapid.T) { x := pick(); x.refuse = !x.refuse },
			"MoverGone": func(*rapid.T) { delete(m.pods, pick().claim) },
			"":          func(t *rapid.T) { m.check(t) },
		})
		for _, a := range m.late {
			m.act(a.of, a.action)
		}
		m.late = nil
		class := rapid.SampledFrom(everyEnd).Draw(t, "last class")
		const enough = 400
		for round := 0; ; round++ {
			ended := true
			for _, x := range m.transfers {
				x.suspended = false
				m.proceed(x, class)
				m.run(x, m.look(x), -1, never)
				ended = ended && x.state.Ended()
				m.check(t)
			}
			m.now = m.now.Add(20 * time.Second)
			if ended {
				break
			}
			if round > enough {
				for _, x := range m.transfers {
					t.Logf("transfer %s: %+v %+v", x.key, x.state, m.look(x))
				}
				t.Fatal("they do not end")
			}
		}
		for range 2 { // whoever looks at one that has ended removes what came late
			m.now = m.now.Add(2 * modelLease)
			for _, x := range m.transfers {
				m.run(x, m.look(x), -1, never)
				m.proceed(x, class)
			}
		}
		for _, x := range m.transfers {
			if len(x.identities) > 0 || len(x.served) > 0 || m.pods[x.claim] != nil {
				t.Errorf("transfer %s left identities %v, at the source %v, a mover %+v", x.key, x.identities, x.served, m.pods[x.claim])
			}
			if x.state.Outcome == nil {
				t.Errorf("transfer %s ended without an outcome", x.key)
			}
			if (x.state.Phase == v1alpha1.VolumeTransferComplete) != (x.state.Outcome.Class == Done) {
				t.Errorf("transfer %s is %s after %+v", x.key, x.state.Phase, x.state.Outcome)
			}
		}
	})
}

// TestStepIsRepeatable steps from any state with any world: what is stepped again at once, with the same world, asks for
// the same, once it has come to rest.
func TestStepIsRepeatable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_700_000_000, 0)
		terms := Terms{Snapshots: v1alpha1.SnapshotsAuto, Attempts: 3, Timeout: time.Hour}
		s, w := anyState(t, now), anyWorld(t)
		w.Admitted = false // an attempt begins once
		for range 20 {
			next, _ := Step(terms, s, w, now)
			if next.Phase == s.Phase {
				break
			}
			s = next
		}
		one, first := Step(terms, s, w, now)
		two, second := Step(terms, one, w, now)
		if one.Phase != two.Phase || one.Epoch != two.Epoch || !slices.Equal(first, second) {
			t.Fatalf("at rest %+v asks for %v, then %+v for %v", one, first, two, second)
		}
		for _, a := range first {
			if (a.Kind == StartMover || a.Kind == Ask || a.Kind == MakeIdentity) && !one.Busy() {
				t.Fatalf("%s in phase %s", a, one.Phase)
			}
		}
	})
}

func anyState(t *rapid.T, now time.Time) State {
	phases := []v1alpha1.VolumeTransferPhase{
		"", v1alpha1.VolumeTransferPending, v1alpha1.VolumeTransferPreparing, v1alpha1.VolumeTransferConnecting, v1alpha1.VolumeTransferTransferring,
		v1alpha1.VolumeTransferVerifying, v1alpha1.VolumeTransferPublishing, v1alpha1.VolumeTransferCleaningUp, v1alpha1.VolumeTransferComplete, v1alpha1.VolumeTransferFailed,
	}
	ago := func(name string) time.Time {
		return now.Add(-time.Duration(rapid.IntRange(0, 7200).Draw(t, name)) * time.Second)
	}
	s := State{
		Phase: rapid.SampledFrom(phases).Draw(t, "phase"), Since: ago("since"), Epoch: rapid.Uint64Range(0, 3).Draw(t, "epoch"),
		Failures: rapid.IntRange(0, 3).Draw(t, "failures"), Began: ago("began"), NotBefore: ago("not before"),
	}
	if rapid.Bool().Draw(t, "has outcome") {
		s.Outcome = &Outcome{Class: rapid.SampledFrom(everyEnd).Draw(t, "outcome")}
	}
	return s
}

func anyWorld(t *rapid.T) World {
	flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
	w := World{
		Deleted: flag("deleted"), Suspended: flag("suspended"),
		Claim:      Claim{Exists: flag("claim"), Fits: flag("fits")},
		Identities: rapid.SliceOfNDistinct(rapid.Uint64Range(0, 3), 0, 3, rapid.ID).Draw(t, "identities"),
		Source:     Source{State: rapid.SampledFrom([]SourceState{SourceSilent, SourcePreparing, SourceServing, SourceRefused}).Draw(t, "source")},
		Snapshot:   Snapshot{Possible: flag("possible"), Exists: flag("shot"), Ready: flag("ready")},
	}
	if flag("mover") {
		w.Mover = &Mover{
			Ours: flag("ours"), Epoch: rapid.Uint64Range(0, 3).Draw(t, "of epoch"), Running: flag("running"), Ended: flag("ended"),
			Verifying: flag("verifying"), Outcome: Outcome{Class: rapid.SampledFrom(everyEnd).Draw(t, "end")},
		}
	}
	return w
}
