package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/dr-syncer/dr-syncer/test/world"
	"github.com/dr-syncer/dr-syncer/transform"
)

const (
	standbyObjects = 2_000
	standbyRounds  = 8
)

// benchStandby measures the first copy of mixed objects, of which almost a third sleep,
// with what a Replication runs by default beside the same without rules. The two take turns, and who
// goes first too.
func benchStandby(ctx context.Context, dir string) (_ []Figure, err error) {
	rules, err := transform.Compile(nil, transform.Options{Rules: append(transform.Mapping{}.Rules(), transform.Standby{}.Rules()...)})
	if err != nil {
		return nil, err
	}
	cluster, err := launch(ctx, filepath.Join(dir, "dr"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	_, conn, closeLog, err := openLog(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	var objects []world.Object
	for _, o := range mixture() {
		if !o.Kind.Namespaced || len(objects) < standbyObjects {
			objects = append(objects, o)
		}
	}
	if err := fill(ctx, conn, objects); err != nil {
		return nil, err
	}
	speed := map[bool][]float64{}
	var ratios []float64
	for round := range standbyRounds + 1 {
		for _, asleep := range []bool{round%2 == 0, round%2 != 0} {
			set := rules
			if !asleep {
				set = nil
			}
			took, err := copyThrough(ctx, cluster.Client(), conn, fmt.Sprintf("standby-%d-%t-", round, asleep), len(objects), set)
			if err != nil {
				return nil, err
			}
			speed[asleep] = append(speed[asleep], float64(len(objects))/took.wall.Seconds())
		}
		if round == 0 { // the server warms up
			clear(speed)
			continue
		}
		on, off := speed[true][round-1], speed[false][round-1]
		ratios = append(ratios, on/off)
		progress("round %d: on %.0f/s, off %.0f/s", round, on, off)
	}
	return []Figure{atLeast("standby-throughput-ratio", median(ratios), 0.9, "ratio",
		fmt.Sprintf("the same copy without rules: %.0f objects/s; with the standby profile %.0f objects/s", median(speed[false]), median(speed[true])))}, nil
}
