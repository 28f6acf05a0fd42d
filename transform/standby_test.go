package transform_test

import (
	"testing"

	"github.com/dr-syncer/dr-syncer/transform"
)

func TestSmoke(t *testing.T) {
	set, err := transform.Compile(nil, transform.Options{Rules: transform.Standby{}.Rules()})
	if err != nil {
		t.Fatal(err)
	}
	o := deployment(t)
	r, err := set.Run(t.Context(), transform.Env{}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", r.Objects[0].Body)
	wake, err := transform.Compile(nil, transform.Options{Rules: transform.WakeRules()})
	if err != nil {
		t.Fatal(err)
	}
	w, err := wake.Run(t.Context(), transform.Env{}, r.Objects[0])
	if err != nil {
		t.Fatal(err)
	}
	if string(w.Objects[0].Body) != string(o.Body) {
		t.Errorf("%s", w.Objects[0].Body)
	}
}
