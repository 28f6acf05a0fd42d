package main

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOrdered(t *testing.T) {
	t.Parallel()
	got, err := ordered(t.Context(), "", []string{module + "/..."})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range got {
		names = append(names, short(path))
	}
	// Also: each of them is a package that there is.
	if diff := cmp.Diff(longest, names[:len(longest)]); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	rest := names[len(longest):]
	if !slices.IsSorted(rest) || !slices.Contains(rest, ".") || !slices.Contains(rest, "pipeline") {
		t.Errorf("then: %v", rest)
	}
	if _, err := ordered(t.Context(), "", []string{"--nonsense"}); err == nil {
		t.Error("nonsense is listed")
	}
}
