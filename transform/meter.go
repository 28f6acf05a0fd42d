package transform

import (
	"context"
	"errors"
	"runtime"
	"runtime/metrics"
	"time"
)

// errTime ends a program whose time is used up.
var errTime = errors.New("did not end in time")

// How many steps of a program there are from one look at the meter to the next.
const (
	firstLook = 1024
	mostSteps = 1024
	fewSteps  = 8
)

// expectedGrowth is what a program may allocate from one look to the next before
// the looks come closer together.
const expectedGrowth = 256 << 10

// meter is the context that programs run with. gojq asks for Done before each
// step, so this is where the time that was used and the memory that is held are
// looked at. It belongs to one goroutine.
//
// Time is that of the processor: a rule on a machine that has no time for it is
// not a slow rule. Memory is what the program still holds, not what it has
// made and dropped. All allocations of the process bound what one program can
// have added, and cost next to nothing to read; only when they are beyond the
// allowance is what the program holds gone through, so that neighbors cost it a
// look and never its life.
type meter struct {
	context.Context // the caller's
	limit           time.Duration
	// memory may be held besides what went in.
	memory int64
	weigh  weigher

	steps  int // until the next look
	every  int // steps from look to look
	locked bool
	start  time.Duration // of the thread's time
	// allocated is the process's count at the last look, and trusted the one up to
	// which the program cannot hold too much.
	allocated, trusted uint64
	sample             [1]metrics.Sample
	err                error
}

// begin starts the allowance of an event. end has to be called in the end.
func (m *meter) begin(ctx context.Context, limit time.Duration, memory int64) {
	*m = meter{Context: ctx, limit: limit, memory: memory, steps: firstLook, every: firstLook}
	m.sample[0].Name = "/gc/heap/allocs:bytes"
}

// end gives the goroutine free again.
func (m *meter) end() {
	if m.locked {
		runtime.UnlockOSThread()
		m.locked = false
	}
}

// renew begins the time anew, for rules behind one that has used it up.
func (m *meter) renew() {
	if m.locked {
		m.start = threadTime()
	}
	if m.Context.Err() == nil {
		m.err = nil
	}
}

// soon has the next step look: something large was made, or took long.
func (m *meter) soon() { m.steps = min(m.steps, 1) }

// Done is closed when the program has to end. It counts the steps.
func (m *meter) Done() <-chan struct{} {
	if m.steps--; m.steps > 0 || m.look() == nil {
		return nil
	}
	return over
}

// over is a channel that is closed.
var over = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Err says why the program has to end.
func (m *meter) Err() error { return m.err }

// look is what happens now and then: it returns why the program has to end.
func (m *meter) look() error {
	if m.err == nil {
		m.err = m.Context.Err()
	}
	if m.err != nil {
		return m.err
	}
	allocated := m.allocations()
	if !m.locked {
		// The time of a thread is that of a goroutine which has it to itself.
		runtime.LockOSThread()
		m.locked, m.start, m.allocated, m.trusted = true, threadTime(), allocated, allocated+uint64(m.memory/2) //nolint:gosec // G115: memory is not negative
	} else if threadTime()-m.start > m.limit {
		m.err = errTime
		return m.err
	}
	switch grown := allocated - m.allocated; {
	case grown > expectedGrowth:
		m.every = max(m.every/4, fewSteps)
	case grown < expectedGrowth/4:
		m.every = min(2*m.every, mostSteps)
	}
	m.steps, m.allocated = m.every, allocated
	if allocated >= m.trusted {
		held := m.weigh.all(m.memory)
		if held > m.memory {
			m.err = errMemory
			return m.err
		}
		m.allocated = m.allocations() // weighing needs memory of its own
		// Not before that much more can it hold too much; an eighth keeps the cost of
		// weighing in proportion.
		m.trusted = m.allocated + uint64(max(m.memory-held, m.memory/8)) //nolint:gosec // G115: held is at most memory
	}
	return nil
}

// allocations is how many bytes the process has ever allocated.
func (m *meter) allocations() uint64 {
	metrics.Read(m.sample[:])
	return m.sample[0].Value.Uint64()
}

// began is when the clock of wallTime began.
var began = time.Now()

func wallTime() time.Duration { return time.Since(began) }
