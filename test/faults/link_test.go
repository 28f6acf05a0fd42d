package faults

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// cable is the network between the two sites, which can be unplugged.
type cable struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string // empty while it is unplugged
	conns  map[net.Conn]bool
}

func newCable(t *testing.T) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: l, conns: map[net.Conn]bool{}}
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.plug("")
		c.wg.Wait()
	})
	return c
}

func (c *cable) accept() {
	for {
		from, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		var to net.Conn
		if c.target != "" {
			if to, err = net.Dial("tcp", c.target); err == nil {
				c.conns[from], c.conns[to] = true, true
			}
		}
		c.mu.Unlock()
		if to == nil {
			_ = from.Close()
			continue
		}
		for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
			c.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1]) // until one of them is closed
				_, _ = pair[0].Close(), pair[1].Close()
			})
		}
	}
}

// plug breaks all connections and leads new ones to the target, or nowhere.
func (c *cable) plug(target string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = target
	for conn := range c.conns {
		_ = conn.Close()
		delete(c.conns, conn)
	}
}

// TestLinkedSites runs the log at the source, linked to the destination, and cuts
// the link while the source changes and each part is killed.
func TestLinkedSites(t *testing.T) {
	t.Parallel()
	cable := newCable(t)
	w := launch(t, world.Options{Linked: true, LinkVia: cable.listener.Addr().String()})
	cable.plug(w.Link)
	run(t, w)
	r := random(t)
	const ns = "linked"
	put(t, w, world.Namespace(ns))
	var objects []world.Object
	for n := range 100 {
		objects = append(objects, world.Mixed(r, ns, n))
		put(t, w, objects[n])
	}
	replicate(t, w, ns, ns, anyDeletions)
	converges(t, w, same(ns))

	// change makes n changes: edits, deletions and new objects.
	made := len(objects)
	change := func(n int) {
		t.Helper()
		for i := range n {
			switch at := r.IntN(len(objects)); {
			case i%3 == 0:
				objects = append(objects, world.Mixed(r, ns, made))
				put(t, w, objects[len(objects)-1])
				made++
			case i%3 == 1:
				remove(t, w, objects[at])
				objects = append(objects[:at], objects[at+1:]...)
			case objects[at].Kind.Resource == "configmaps":
				objects[at] = world.ConfigMap(r, ns, objects[at].Name, 300, i)
				put(t, w, objects[at])
			}
		}
	}

	cable.plug("")
	change(250)
	w.Collector.Kill()
	change(50)
	begin(t, w.Collector) // the other site is still out of reach
	change(200)
	condition := func(want string) func() bool {
		return func() bool {
			out, err := w.DR.Kubectl("get", "replication", ns, "-n", "default", "-o",
				`jsonpath={.status.conditions[?(@.type=="SourceAvailable")].status}`)
			return err == nil && strings.TrimSpace(out) == want
		}
	}
	eventually(t, "the Replication says that nothing is heard of the source", condition("False"))
	if c, err := world.Compare(t.Context(), w.Prod.Client().REST(), w.DR.Client().REST(), same(ns)); err == nil && c.OK() {
		t.Error("the destination follows though the link is cut")
	}
	joined := time.Now()
	cable.plug(w.Link)
	t.Log(converges(t, w, same(ns)))
	eventually(t, "the Replication says that the source is heard of", condition("True"))
	t.Logf("equal %s after the link came back", time.Since(joined).Round(time.Millisecond))

	for _, p := range []*world.Process{w.Applier, w.Collector} {
		change(60)
		p.Kill()
		change(60)
		begin(t, p)
		converges(t, w, same(ns))
	}
}

// begin starts a process again.
func begin(t *testing.T, p *world.Process) {
	t.Helper()
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
