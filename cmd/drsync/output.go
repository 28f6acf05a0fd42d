package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// The formats of -o.
const (
	formatText = "text"
	formatJSON = "json"
	formatYAML = "yaml"
)

// The values of --color.
const (
	colorAuto   = "auto"
	colorAlways = "always"
	colorNever  = "never"
)

// show writes the result of a command in the format that was asked for: value
// as JSON or YAML, or what text writes.
func (c *cli) show(value any, text func(p *printer)) error {
	p := &printer{colored: c.colored()}
	switch c.format {
	case formatJSON:
		e := json.NewEncoder(&p.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(value); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	case formatYAML:
		out, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("write result: %w", err)
		}
		p.out.Write(out)
	default:
		text(p)
	}
	if _, err := c.out.Write(p.out.Bytes()); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// colored says whether text has colors.
func (c *cli) colored() bool {
	switch c.color {
	case colorAlways:
		return true
	case colorNever:
		return false
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(c.out)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// style is how a piece of text looks on a terminal.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// printer collects the text of a command.
type printer struct {
	out     bytes.Buffer
	colored bool
}

// printf writes text in a style.
func (p *printer) printf(s style, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !p.colored || s == plain {
		p.out.WriteString(text)
		return
	}
	// Each line is colored by itself: pagers forget at the end of one.
	for line := range strings.Lines(text) {
		body, end := strings.CutSuffix(line, "\n")
		fmt.Fprintf(&p.out, "\x1b[%sm%s\x1b[0m", s, body)
		if end {
			p.out.WriteByte('\n')
		}
	}
}

// table writes rows under a header as kubectl does.
func (p *printer) table(header []string, rows [][]string) {
	p.tableWith(header, rows, func(int) {})
}

// tableWith is table with what below writes under each row, which belongs to no column.
func (p *printer) tableWith(header []string, rows [][]string, below func(row int)) {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	write := func(s style, row []string) {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+3))
			}
		}
		p.printf(s, "%s\n", strings.TrimRight(line.String(), " "))
	}
	write(bold, header)
	for i, row := range rows {
		write(plain, row)
		below(i)
	}
}

// counted is a number with what it counts.
func counted[N int | int64](n N, one, many string) string {
	if n == 1 {
		many = one
	}
	return fmt.Sprintf("%d %s", n, many)
}
