package collect

import (
	"context"

	"github.com/dr-syncer/dr-syncer/kube"
)

// Source is the cluster that is collected from: what is used of *kube.Client. Its
// methods are called from many goroutines at once.
type Source interface {
	// Kinds returns what is served; with a *kube.PartialError, what is known of it.
	Kinds(ctx context.Context) ([]kube.Kind, error)
	// Watch tells h about all objects of a kind until ctx ends. Its lists are
	// consistent reads.
	Watch(ctx context.Context, k kube.Kind, opts kube.WatchOptions, h kube.Handler)
	// Get reads one object, consistently.
	Get(ctx context.Context, k kube.Kind, namespace, name string) (kube.Object, error)
	// ClusterUID identifies the cluster, whatever its address.
	ClusterUID(ctx context.Context) (string, error)
}

var _ Source = (*kube.Client)(nil)
