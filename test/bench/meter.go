package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// cost is what something took: until it was done, and the CPU time of this
// process (user and system) until everything that it caused was over. Where others
// load the machine the second says more.
type cost struct{ wall, cpu time.Duration }

func wall(c cost) float64 { return c.wall.Seconds() }
func used(c cost) float64 { return c.cpu.Seconds() }

// meter measures a cost from where it was started.
type meter struct {
	begun time.Time
	cpu   time.Duration
}

func start() meter { return meter{time.Now(), processTime()} }

// stop ends the time, waits until this process is quiet, and ends the CPU time.
func (m meter) stop(ctx context.Context) (cost, error) {
	c := cost{wall: time.Since(m.begun)}
	err := quiet(ctx)
	c.cpu = processTime() - m.cpu
	return c, err
}

// quiet waits until this process does next to nothing: what the log does
// behind an acknowledgment must not be counted to whoever comes next.
func quiet(ctx context.Context) error {
	const look, calm, enough = 200 * time.Millisecond, 20 * time.Millisecond, 3
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for in := 0; in < enough; {
		before := processTime()
		if err := pause(ctx, look); err != nil {
			return fmt.Errorf("wait until this process is quiet: %w", err)
		}
		in++
		if processTime()-before > calm {
			in = 0
		}
	}
	return nil
}

// processTime is the CPU time of this process up to now.
func processTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for other arguments only
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func medianOf(costs []cost, of func(cost) float64) float64 {
	values := make([]float64, len(costs))
	for i, c := range costs {
		values[i] = of(c)
	}
	return median(values)
}

// pairs is the median over the rounds of yardstick by product: above 1 the
// product is the cheaper. Two of one round saw the same machine.
func pairs(yardstick, product []cost, of func(cost) float64) float64 {
	ratios := make([]float64, len(product))
	for i := range product {
		ratios[i] = of(yardstick[i]) / of(product[i])
	}
	return median(ratios)
}
