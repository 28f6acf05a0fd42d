package natslog

import (
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

func TestResults(t *testing.T) {
	conn := inProcess(t, testServer(t))
	pipelinetest.TestResults(t, func(t testing.TB, dest string) pipeline.Results {
		t.Helper()
		r, err := conn.Results(t.Context(), dest, DefaultResultOptions())
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
}

func FuzzEachResult(f *testing.F) {
	f.Add([]byte("{\"ref\":{\"Site\":\"a\"},\"result\":\"created\"}\n{}\n"))
	f.Add([]byte("\n\n{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		err := eachResult(data, func(pipeline.ObjectResult, error) bool { n++; return true })
		if err == nil && n == 0 && len(data) > 0 {
			t.Errorf("%q holds nothing and is no error", data)
		}
	})
}
