package main

import (
	"testing"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

// TestNamesItsDestination: clusters that share a log and were given no name must not
// take each other's dead letters and subscriptions.
func TestNamesItsDestination(t *testing.T) {
	client := kubetest.Shared(t).Client()
	uid, err := client.ClusterUID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{"": "cluster-" + uid, "dr-fra": "dr-fra"} {
		o := defaultOptions()
		o.destination, o.nats.URL = given, "nats://log.example.com:4222"
		if err := o.validate(func(string) bool { return false }); err != nil {
			t.Fatal(err)
		}
		p := &program{options: o, client: client}
		if err := p.nameDestination(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := p.options.destination; got != want || !destinationName.MatchString(got) {
			t.Errorf("given %q it is named %q, want %q", given, got, want)
		}
	}
}
