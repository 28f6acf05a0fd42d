package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// printer writes to the terminal. What a broken standard output swallows, the
// exit code still tells.
type printer struct {
	out   io.Writer
	color bool
	now   func() time.Time
}

func (p *printer) paint(code, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *printer) bold(s string) string  { return p.paint("1", s) }
func (p *printer) dim(s string) string   { return p.paint("2", s) }
func (p *printer) green(s string) string { return p.paint("32", s) }
func (p *printer) red(s string) string   { return p.paint("31", s) }

func (p *printer) line(format string, args ...any) { _, _ = fmt.Fprintf(p.out, format+"\n", args...) }

// act begins a part of the show.
func (p *printer) act(title string) { p.line("\n%s", p.bold(title)) }

// paints match what paint adds, which has no width.
var paints = regexp.MustCompile("\x1b\\[[0-9]*m")

// width of the part of a row before its result.
const width = 64

// row begins a row; the function it returns ends it with the result.
func (p *printer) row(label, what string) func(result string) {
	_, _ = fmt.Fprint(p.out, pad("  "+pad(label, 9)+what, width))
	return func(result string) { p.line("%s", result) }
}

// pad fills s up to n columns.
func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(paints.ReplaceAllString(s, ""))))
}

// step begins a long step; the function it returns ends it with the time it took.
func (p *printer) step(what string) func(err error) {
	started := p.now()
	done := p.row("", what)
	return func(err error) {
		took := fmt.Sprintf("%7.1f s", p.now().Sub(started).Seconds())
		if err != nil {
			took = p.red("failed after" + took)
		}
		done(took)
	}
}

// ms is a latency, aligned.
func (p *printer) ms(d time.Duration) string {
	return p.green(fmt.Sprintf("%7d ms", max(0, d).Milliseconds()))
}

// fit shortens s to at most n runes.
func fit(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:max(0, n-1)]) + "…"
}
