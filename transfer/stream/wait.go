package stream

import (
	"os"
	"sync"
	"time"
)

// waiting is a condition that is also woken at a deadline. It is used under its lock.
type waiting struct {
	cond   *sync.Cond
	timer  *time.Timer
	passed bool
}

func newWaiting(l sync.Locker) *waiting { return &waiting{cond: sync.NewCond(l)} }

// set sets the deadline, none if it is zero.
func (w *waiting) set(t time.Time) {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.passed = !t.IsZero() && !t.After(time.Now())
	if !t.IsZero() && !w.passed {
		var own *time.Timer
		own = time.AfterFunc(time.Until(t), func() {
			w.cond.L.Lock()
			defer w.cond.L.Unlock()
			if w.timer == own { // not replaced meanwhile
				w.passed = true
				w.cond.Broadcast()
			}
		})
		w.timer = own
	}
	w.cond.Broadcast()
}

// stop ends the timer.
func (w *waiting) stop() {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// until waits until f is true; os.ErrDeadlineExceeded when the deadline passed first.
func (w *waiting) until(f func() bool) error {
	for {
		switch {
		case w.passed:
			return os.ErrDeadlineExceeded
		case f():
			return nil
		}
		w.cond.Wait()
	}
}
