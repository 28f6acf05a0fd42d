package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cost is what something took: until it was done, and the CPU time (user and
// system) of this process and those that it runs, until everything that it caused was
// over. Where others load the machine the second says more.
type cost struct{ wall, cpu time.Duration }

func wall(c cost) float64 { return c.wall.Seconds() }
func used(c cost) float64 { return c.cpu.Seconds() }

// meter measures a cost from where it was started.
type meter struct {
	begun time.Time
	cpu   time.Duration
}

func start() meter { return meter{time.Now(), processTime()} }

// stop ends the time, waits until all is quiet, and ends the CPU time.
func (m meter) stop(ctx context.Context) (cost, error) {
	c := cost{wall: time.Since(m.begun)}
	err := quiet(ctx)
	c.cpu = processTime() - m.cpu
	return c, err
}

// quiet waits until this process and those that it runs do next to nothing: what
// they do behind an answer must not be counted to whoever comes next.
func quiet(ctx context.Context) error {
	const look, calm, enough = 200 * time.Millisecond, 30 * time.Millisecond, 3
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for in := 0; in < enough; {
		before := processTime()
		if err := pause(ctx, look); err != nil {
			return fmt.Errorf("wait for quiet: %w", err)
		}
		in++
		if processTime()-before > calm {
			in = 0
		}
	}
	return nil
}

// processTime is the CPU time up to now of this process and of those that it runs.
func processTime() time.Duration {
	var own syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &own) // fails for other arguments only
	total := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	children, _ := filepath.Glob("/proc/self/task/*/children") // by the thread that started them
	for _, name := range children {
		pids, _ := os.ReadFile(name)
		for pid := range strings.FieldsSeq(string(pids)) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil {
				continue // it has ended
			}
			// After the name in brackets, which may hold anything: state, parent and so on, and
			// as the twelfth and thirteenth the ticks (of 10 ms) in user and system mode.
			fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
			for _, ticks := range fields[11:13] {
				n, _ := strconv.ParseInt(ticks, 10, 64)
				total += time.Duration(n) * 10 * time.Millisecond
			}
		}
	}
	return total
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
