package rsync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Copier is the destination's end: it copies the source's volume into Root.
type Copier struct {
	Program Program
	// Root is the directory or the device to write.
	Root string
	// Work is an empty directory for sockets and lists, not on the volume.
	Work string
	// Shim is the command that calls Shim, and Env what more it needs in its environment.
	Shim []string
	Env  []string
	// Open opens a stream to the source.
	Open     func(ctx context.Context) (Stream, error)
	Settings Settings
	// OnPass is called when a pass begins, OnProgress as it goes on. Neither may block.
	OnPass     func(Pass)
	OnProgress func(Progress)

	version Version
}

// Copy runs all passes of a copy and returns how it ended, with a report of each
// pass. When it was killed or has failed it may be run again: what has arrived is
// not sent again. One Copier copies at a time, and nobody else may write to Root.
func (c *Copier) Copy(ctx context.Context) (Verdict, []Report, error) {
	if err := c.prepare(ctx); err != nil {
		return Verdict{Class: Permanent, Reason: err.Error()}, nil, err
	}
	var reports []Report
	var ran []Ran
	for {
		next, limit, end := Plan(c.Settings, ran)
		if end != nil || checks(next) { // what is verified should be what is stored
			if err := c.flush(); err != nil {
				return Verdict{Class: Storage, Reason: err.Error()}, reports, err
			}
		}
		if end != nil {
			if last := reports[len(reports)-1]; end.Class != Done && last.Class != Done {
				end.Reason += ": " + last.Meaning
			}
			return *end, reports, nil
		}
		if c.OnPass != nil {
			c.OnPass(next)
		}
		report, err := c.pass(ctx, next, limit, c.OnProgress)
		reports, ran = append(reports, report), append(ran, report.Ran)
		if err != nil {
			return Verdict{Class: report.Class, Reason: report.Meaning}, reports, fmt.Errorf("run the %s pass: %w", next, err)
		}
	}
}

func (c *Copier) prepare(ctx context.Context) error {
	if err := c.Settings.Validate(); err != nil {
		return fmt.Errorf("check the settings: %w", err)
	}
	for _, word := range c.Shim {
		if word == "" || strings.ContainsAny(word, " \t\"'") {
			return errors.New("check the settings: the shim's command has a word that rsync would split")
		}
	}
	var err error
	c.version, err = c.Program.Check(ctx)
	return err
}

// flush has the volume's filesystem write what it holds: once, instead of rsync
// for each file.
func (c *Copier) flush() error {
	f, err := os.Open(c.Root)
	if err != nil {
		return fmt.Errorf("store what was copied: %w", err)
	}
	sync := func() error { return unix.Syncfs(int(f.Fd())) }
	if c.Settings.Block {
		sync = f.Sync
	}
	if err := errors.Join(sync(), f.Close()); err != nil {
		return fmt.Errorf("store what was copied: %w", err)
	}
	return nil
}
