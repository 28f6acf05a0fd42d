package main

import (
	"encoding/json"

	"github.com/dr-syncer/dr-syncer/transform"
)

// changeView is one difference between two objects.
type changeView struct {
	// Path is where, as jq writes it.
	Path string `json:"path"`
	// Before and After are absent where there was or is nothing.
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

func changeViews(changes []transform.Change) []changeView {
	views := make([]changeView, len(changes))
	for i, c := range changes {
		views[i] = changeView(c)
	}
	return views
}

// printChanges writes changes one a line, as `transform test` wants them.
func printChanges(p *printer, changes []changeView) {
	for _, c := range changes {
		s := yellow
		switch {
		case c.Before == nil:
			s = green
		case c.After == nil:
			s = red
		}
		p.printf(s, "    %s\n", transform.Change(c))
	}
}
