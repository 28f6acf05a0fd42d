package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/transform"
)

func (c *cli) transformCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "transform",
		Aliases: []string{"transforms"},
		Short:   "Test, explain and show the rules that rewrite objects",
	}
	group(cmd)
	cmd.AddCommand(c.testCommand(), c.explainCommand(), c.diffCommand(), c.showCommand())
	return cmd
}

func (c *cli) testCommand() *cobra.Command {
	update, verbose := false, false
	cmd := &cobra.Command{
		Use:   "test FILE...",
		Short: "Run tests of rules",
		Long: `Test runs tests of rules: files of YAML documents, each with rules, an object and
what is expected of it (docs/transforms.md, "Testing rules"). Of a directory all
files that end in .yaml are run. Files that a test names are looked for beside it,
and in the directory "objects" there.

The exit code is 3 if a test fails.`,
		Example: "  drsync transform test rules_test.yaml\n  drsync transform test --update tests/",
		Args:    args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			return c.test(cmd.Context(), files, update, verbose)
		},
	}
	cmd.Flags().BoolVar(&update, "update", false, "write what came out into the files as what is expected, to be reviewed")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list the tests that pass too")
	return cmd
}

// testReport is what `transform test` tells of one test.
type testReport struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Want    string `json:"want,omitempty"`
	Got     string `json:"got,omitempty"`
	Problem string `json:"problem,omitempty"`
}

func (c *cli) test(ctx context.Context, args []string, update, verbose bool) error {
	files, err := testFiles(args)
	if err != nil {
		return app.Usage(err)
	}
	reports, failed := []testReport{}, 0
	for _, file := range files {
		results, err := testFile(ctx, file, update)
		if err != nil {
			return app.Usage(fmt.Errorf("%s: %w", file, err))
		}
		for _, r := range results {
			report := testReport{File: file, Line: r.Line, Name: r.Name, OK: r.OK() || update && r.Problem == "", Problem: r.Problem}
			if !report.OK {
				report.Want, report.Got = r.Want, r.Got
				failed++
			}
			reports = append(reports, report)
		}
	}
	if err := c.show(reports, func(p *printer) {
		for _, r := range reports {
			r.print(p, verbose)
		}
		p.printf(bold, "%s, %d failed\n", counted(len(reports), "test", "tests"), failed)
	}); err != nil {
		return err
	}
	switch {
	case failed > 0:
		return c.no("%d of %d tests failed", failed, len(reports))
	case len(reports) == 0:
		return app.Usage(errors.New("there is no test in these files"))
	}
	return nil
}

func (r *testReport) print(p *printer, verbose bool) {
	switch {
	case r.OK && !verbose:
		return
	case r.OK:
		p.printf(green, "ok")
		p.printf(plain, "   %s:%d: %s\n", r.File, r.Line, r.Name)
		return
	}
	p.printf(red, "FAIL")
	p.printf(plain, " %s:%d: %s\n", r.File, r.Line, r.Name)
	if r.Problem != "" {
		p.printf(plain, "    %s\n", strings.ReplaceAll(r.Problem, "\n", "\n    "))
	}
	if r.Want != r.Got {
		p.printf(plain, "  want:\n")
		p.printf(red, "    %s\n", strings.ReplaceAll(r.Want, "\n", "\n    "))
		p.printf(plain, "  got:\n")
		p.printf(green, "    %s\n", strings.ReplaceAll(r.Got, "\n", "\n    "))
	}
}

// testFiles are the files among args, and those in the directories.
func testFiles(args []string) ([]string, error) {
	var files []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, fmt.Errorf("find tests: %w", err)
		}
		if !info.IsDir() {
			files = append(files, arg)
			continue
		}
		inside, err := filepath.Glob(filepath.Join(arg, "*.yaml"))
		if err != nil {
			return nil, fmt.Errorf("find tests: %w", err)
		}
		files = append(files, inside...)
	}
	return files, nil
}

// testFile runs the tests of one file and, with update, writes it anew.
func testFile(ctx context.Context, file string, update bool) ([]transform.TestResult, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the user names the file
	if err != nil {
		return nil, fmt.Errorf("read tests: %w", err)
	}
	results, err := transform.RunTests(ctx, string(text), func(name string) ([]byte, error) {
		object, err := os.ReadFile(filepath.Join(filepath.Dir(file), name)) //nolint:gosec // the user's test names the file
		if errors.Is(err, os.ErrNotExist) {
			return os.ReadFile(filepath.Join(filepath.Dir(file), "objects", name)) //nolint:gosec // the user's test names the file
		}
		return object, err
	})
	if err != nil || !update {
		return results, err
	}
	updated := transform.UpdateTests(string(text), results)
	if updated == string(text) {
		return results, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("update tests: %w", err)
	}
	if err := os.WriteFile(file, []byte(updated), info.Mode().Perm()); err != nil { //nolint:gosec // G703: the user names the file
		return nil, fmt.Errorf("update tests: %w", err)
	}
	return results, nil
}
