package main

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestWriteResults(t *testing.T) {
	ref := pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "shop", Name: "a"}
	other := pipeline.Ref{Site: "prod", Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"}
	var out bytes.Buffer
	writeResults(&out, []pipeline.ObjectResult{
		{Ref: ref, Result: pipeline.ResultConfigured, Diff: []string{`-data.v: "1"`, `+data.v: "2"`}},
		{Ref: other, Class: pipeline.Invalid, Message: "two\nlines"},
	})
	want := `RESULT      KIND              NAMESPACE  NAME  REASON
configured  configmaps        shop       a
  -data.v: "1"
  +data.v: "2"
failed      apps/deployments  shop       web   Invalid: two lines
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("results (-want +got)\n%s", diff)
	}
}
