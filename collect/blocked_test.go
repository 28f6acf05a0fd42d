package collect

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
)

// shelf is a Source of ConfigMaps that a test changes.
type shelf struct {
	mu      sync.Mutex
	version int
	objects map[string]kube.Object
	handler kube.Handler
	noisy   bool // bodies hardly compress
}

// versions returns what there is, by name.
func (s *shelf) versions() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	versions := map[string]string{}
	for name, o := range s.objects {
		versions[name] = o.Version
	}
	return versions
}

func (s *shelf) Kinds(context.Context) ([]kube.Kind, error) { return []kube.Kind{configMaps}, nil }
func (s *shelf) ClusterUID(context.Context) (string, error) { return "one", nil }

// uid is that of the object of a name, or of a new one.
func (s *shelf) uid(name string) string {
	if o, ok := s.objects[name]; ok {
		return o.UID
	}
	return fmt.Sprintf("%036x", fmt.Sprint(s.version, name))[:36]
}

func (s *shelf) object(name string, size int) kube.Object {
	o := scriptedObject(configMaps, name, s.uid(name), fmt.Sprint(s.version))
	value := strings.Repeat(fmt.Sprint(s.version%10), size)
	if s.noisy {
		random := make([]byte, size/4*3)
		_, _ = rand.NewChaCha8([32]byte{byte(s.version), byte(s.version >> 8)}).Read(random) // never fails
		value = base64.StdEncoding.EncodeToString(random)
	}
	o.Raw = []byte(strings.TrimSuffix(string(o.Raw), "}") + fmt.Sprintf(`,"data":{"v":%q}}`, value))
	return o
}

func (s *shelf) Watch(ctx context.Context, _ kube.Kind, _ kube.WatchOptions, h kube.Handler) {
	s.mu.Lock()
	var all []kube.Object
	for _, o := range s.objects {
		all = append(all, o)
	}
	list(h, fmt.Sprint(s.version), all...)
	s.handler = h
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.handler = nil
	s.mu.Unlock()
}

func (s *shelf) Get(_ context.Context, _ kube.Kind, _, name string) (kube.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[name]
	if !ok {
		return o, errors.New("the watch tells of its end")
	}
	return o, nil
}

// put makes or changes an object, whose body has a size.
func (s *shelf) put(name string, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.objects[name] = s.object(name, size)
	if s.handler != nil {
		s.handler.Observe(s.objects[name])
	}
}

func (s *shelf) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o := s.objects[name]
	delete(s.objects, name)
	if o.Version = fmt.Sprint(s.version); s.handler != nil {
		s.handler.Delete(o)
	}
}

// narrow is a log that has room for bodies up to a size, and counts how often it had none.
type narrow struct {
	room    atomic.Int64
	refused atomic.Int64
}

func (n *narrow) fault(_ string, events []pipeline.Event) memlog.Fault {
	blocked := &pipeline.BlockedError{Err: errors.New("no room")}
	for i, e := range events {
		if int64(len(e.Body)) > n.room.Load() && e.Op == pipeline.OpPut {
			blocked.Events = append(blocked.Events, i)
		}
	}
	if len(blocked.Events) == 0 {
		return memlog.Fault{}
	}
	n.refused.Add(1)
	return memlog.Fault{Err: blocked}
}

const tight, ample = 4 << 10, 1 << 30

func narrowWorld(t *testing.T) (*world, *shelf, *narrow) {
	w, s, n := scriptedWorld(t), &shelf{version: 10, objects: map[string]kube.Object{}}, &narrow{}
	w.source = s
	n.room.Store(tight)
	w.log.SetFault(n.fault)
	return w, s, n
}

// holds compares the log with the source, but for some names.
func (w *world) holds(s *shelf, without ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	want, got := map[string]string{}, map[string]string{}
	for name, o := range s.objects {
		if !slices.Contains(without, name) {
			want[name] = o.Version
		}
	}
	for ref, r := range w.current() {
		if r.Op == pipeline.OpPut {
			got[ref.Name] = r.Version
		}
	}
	return cmp.Diff(want, got)
}

// TestBlockedObjectHoldsUpNobody has one object among a thousand for which the log has no room.
func TestBlockedObjectHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, n := narrowWorld(t)
		for i := range 999 {
			s.put(fmt.Sprintf("small-%03d", i), 10)
		}
		s.put("big", 2*tight)
		w.start()
		settle := func() { synctest.Wait(); <-time.After(3 * time.Second); synctest.Wait() }
		settle()
		if diff := w.holds(s, "big"); diff != "" {
			t.Fatalf("the others (-want +got):\n%s", diff)
		}
		if h := w.heartbeat(); !strings.Contains(h.Failing["configmaps"], "cannot take shop/big now: no room") || h.Outbox != 1 {
			t.Errorf("the heartbeat does not say it: %+v", h)
		}
		// Changes of the others pass; those of the blocked one wait with it, without being handed to the
		// log each time.
		before := n.refused.Load()
		for range 500 {
			s.put("big", 2*tight)
		}
		s.put("small-000", 20)
		s.remove("small-001")
		settle()
		if diff := w.holds(s, "big"); diff != "" {
			t.Errorf("the others (-want +got):\n%s", diff)
		}
		if tried := n.refused.Load() - before; tried > 5 {
			t.Errorf("the log was asked %d times in seconds", tried)
		}
		w.stop() // nothing is lost with the process
		w.start()
		settle()
		n.room.Store(ample)
		<-time.After(2 * lastBlock)
		synctest.Wait()
		if diff := w.holds(s); diff != "" {
			t.Errorf("all, once there is room (-want +got):\n%s", diff)
		}
		if h := w.heartbeat(); len(h.Failing) > 0 || h.Outbox != 0 || !w.running.Complete() {
			t.Errorf("it still says that something waits: %+v", h)
		}
		w.stop()
	})
}

// TestBlockedObjectMovesOn: what becomes of a blocked object while it waits.
func TestBlockedObjectMovesOn(t *testing.T) {
	cases := map[string]struct {
		reason string
		do     func(s *shelf)
		want   []string
	}{
		"Smaller":  {"a version that fits need not wait", func(s *shelf) { s.put("it", 10) }, []string{"put", "put"}},
		"Deleted":  {"its end need not wait", func(s *shelf) { s.remove("it") }, []string{"put", "delete"}},
		"Replaced": {"its end and a small successor", func(s *shelf) { s.remove("it"); s.put("it", 10) }, []string{"put", "delete", "put"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s, _ := narrowWorld(t)
				s.put("it", 10)
				w.start()
				synctest.Wait()
				<-time.After(time.Second)
				s.put("it", 2*tight)
				<-time.After(10 * time.Second) // well into the long waits
				tc.do(s)
				<-time.After(200 * time.Millisecond)
				synctest.Wait()
				var got []string
				for _, e := range w.eventsAfter(beginning(w)) {
					if e.Ref.Name == "it" {
						got = append(got, e.Op.String())
					}
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
				}
				if h := w.heartbeat(); len(h.Failing) > 0 || h.Outbox != 0 {
					t.Errorf("something waits: %+v", h)
				}
				w.stop()
			})
		})
	}
}

// TestNewObjectThatWasBlockedIsForgotten: one that the log has never held ends without a word.
func TestNewObjectThatWasBlockedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, _ := narrowWorld(t)
		s.put("it", 2*tight)
		w.start()
		<-time.After(5 * time.Second)
		s.remove("it")
		<-time.After(time.Second)
		synctest.Wait()
		if got := of(w.eventsAfter(beginning(w)), "it"); len(got) > 0 {
			t.Errorf("the log says %v", got)
		}
		if h := w.heartbeat(); len(h.Failing) > 0 || h.Outbox != 0 {
			t.Errorf("something waits: %+v", h)
		}
		w.stop()
	})
}

// TestRoomIsMadeAndUsed: while something waits the log is tidied, and what waits tries again
// when that made room.
func TestRoomIsMadeAndUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, n := narrowWorld(t)
		w.config.Heartbeat, w.config.Discovery = Duration(time.Minute), Duration(time.Hour)
		var tidied []time.Duration
		began := time.Now()
		w.tidy = func(context.Context) (int, error) {
			if tidied = append(tidied, time.Since(began)); len(tidied) < 2 {
				return 0, errors.New("not now")
			}
			n.room.Store(ample)
			return 1, nil
		}
		s.put("it", 2*tight)
		w.start()
		<-time.After(2 * tidyBlocked)
		synctest.Wait()
		if diff := w.holds(s); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		<-time.After(2 * tidyEvery)
		w.stop()
		if n := len(tidied); n != 3 && n != 4 || tidied[0] > 5*time.Second || tidied[1] > 12*time.Minute {
			t.Errorf("tidied after %v", tidied)
		}
	})
}
