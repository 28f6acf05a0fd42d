package memlog_test

import (
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

func TestResults(t *testing.T) {
	l := memlog.New()
	pipelinetest.TestResults(t, func(_ testing.TB, dest string) pipeline.Results { return l.Results(dest) })
}
