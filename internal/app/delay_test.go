package app

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/pflag"

	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

func TestDelayDoublesAndIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d Delay
		within := func(got, mean time.Duration) {
			t.Helper()
			if got < mean/2 || got > mean*3/2 {
				t.Errorf("waited %s, want about %s", got, mean)
			}
		}
		begin := time.Now()
		for _, mean := range []int{1, 2, 4, 8, 16, 30, 30} {
			within(d.NextAfter(begin), time.Duration(mean)*time.Second)
		}
		Wait(t.Context(), 2*lastDelay+time.Second) // it lasted
		within(d.NextAfter(begin), time.Second)
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if !Wait(ctx, time.Second) {
			t.Error("the time was not waited out")
		}
		begin := time.Now()
		if Wait(ctx, time.Hour) || time.Since(begin) > time.Minute {
			t.Error("the end of the context was waited out")
		}
	})
}

func TestConnectLog(t *testing.T) {
	cases := map[string]struct {
		reason string
		cfg    natslog.ConnectConfig
		want   error
		text   string
	}{
		"Away":     {"what cannot be reached is waited for", natslog.ConnectConfig{URL: "nats://" + freeAddress(t)}, context.DeadlineExceeded, ""},
		"Mistaken": {"what waiting does not mend is said at once", natslog.ConnectConfig{URL: "http://x"}, nil, "check --nats-url"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			conn, err := ConnectLog(ctx, tc.cfg)
			if err == nil {
				t.Fatalf("%s: connected, %v", tc.reason, conn.Close())
			}
			if tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s: %v", tc.reason, err)
			}
		})
	}
}

// Every flag of a connection but the address belongs to ConnectionFlags: whoever forgets it there
// accepts it where it says nothing.
func TestConnectionFlagsAreAllThere(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	RegisterConnection(fs, &natslog.ConnectConfig{}, "", "")
	for _, name := range append([]string{"nats-url"}, ConnectionFlags...) {
		if fs.Lookup(name) == nil {
			t.Errorf("--%s does not exist", name)
		}
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if strings.HasPrefix(f.Name, "nats-") && f.Name != "nats-url" && !strings.Contains(strings.Join(ConnectionFlags, " "), f.Name) {
			t.Errorf("--%s is not in ConnectionFlags", f.Name)
		}
	})
}
