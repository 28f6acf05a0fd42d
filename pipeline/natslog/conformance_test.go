package natslog

import (
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

func TestConformanceInProcess(t *testing.T) {
	pipelinetest.TestLog(t, func(t *testing.T) pipelinetest.Harness {
		return harness(inProcess(t, testServer(t)))
	})
}

func TestConformanceOverTCP(t *testing.T) {
	pipelinetest.TestLog(t, func(t *testing.T) pipelinetest.Harness {
		return harness(testConn(t, ConnectConfig{URL: testServer(t, listening).URL()}))
	})
}
