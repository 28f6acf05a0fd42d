package replay_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

func TestMain(m *testing.M) {
	kubetest.Main(m,
		// A stream that is about to source from another waits up to 30 s for the
		// answer, after the server has shut down too. It ends then, and touches nothing.
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"))
}
