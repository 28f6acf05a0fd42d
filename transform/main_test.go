package transform_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite what the cases of testdata expect")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
