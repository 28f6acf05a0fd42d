package transfer

import (
	"testing"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }
