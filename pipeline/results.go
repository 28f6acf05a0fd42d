package pipeline

import (
	"context"
	"iter"
	"time"
)

// ObjectResult is what a run did with one object, or would do.
type ObjectResult struct {
	Ref Ref `json:"ref"`
	// Result is empty if it failed.
	Result Result `json:"result,omitempty"`
	// Class and Message say why it failed; Message never holds object content.
	Class   Class  `json:"class,omitempty"`
	Message string `json:"message,omitempty"`
	// Attempts is how often it was tried.
	Attempts int `json:"attempts,omitempty"`
	// Position is that of the record that was applied.
	Position Position `json:"position"`
	// Diff is what would change, of a run that writes nothing: "-path: value" and "+path: value".
	Diff []string `json:"diff,omitempty"`
	// Time is when it was done.
	Time time.Time `json:"time"`
}

// Failed reports whether the object could not be applied.
func (r ObjectResult) Failed() bool { return r.Result == "" }

// Results keeps what became of each object of the runs into one destination. All methods are
// safe for concurrent use.
type Results interface {
	// Add adds to the results of a run, durably. Of several for one Ref the last one added counts.
	Add(ctx context.Context, run string, results []ObjectResult) error
	// List yields the results of a run in the order in which they were added, so a Ref may come
	// again. A run that is not known has none. The sequence ends after the first error.
	List(ctx context.Context, run string) iter.Seq2[ObjectResult, error]
	// Runs returns the runs of which there are results, sorted.
	Runs(ctx context.Context) ([]string, error)
	// Remove drops the results of a run. Removing none is no error.
	Remove(ctx context.Context, run string) error
}
