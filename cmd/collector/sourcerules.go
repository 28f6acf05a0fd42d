package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transform"
)

// sourceRules keeps the rules of stage source as the ConfigMaps in the collector's
// own namespace have them. Nothing may be published before the first set compiles;
// later a set that does not leaves the former in force.
type sourceRules struct {
	client          *kube.Client
	site, namespace string
	log             *slog.Logger

	// changed is told that something below has; of size 1.
	changed chan struct{}

	mu                  sync.Mutex
	configMaps, secrets *[]kube.Values // nil: not known yet
	// unreadable says why Secrets or ConfigMaps cannot be read, by kind; "" if they can.
	unreadable map[string]string
	// problem is what is wrong with the rules as they are now; nil if nothing is.
	problem error
	inForce *transform.Set
	digest  [sha256.Size]byte
	use     func(*transform.Set)
}

func newSourceRules(client *kube.Client, site, namespace string, log *slog.Logger) *sourceRules {
	return &sourceRules{
		client: client, site: site, namespace: namespace, log: log,
		changed: make(chan struct{}, 1), unreadable: map[string]string{},
		problem: errors.New("the ConfigMaps with rules have not been read yet: nothing is published"),
	}
}

// run keeps the rules until ctx ends; it calls ready when the first set is in force.
func (r *sourceRules) run(ctx context.Context, ready func()) error {
	defer telemetry.Gauge(telemetry.MetricCollectRulesFailing, func() []telemetry.Sample {
		failing := 0.0
		if r.check(ctx) != nil {
			failing = 1
		}
		return []telemetry.Sample{{Value: failing, Attrs: []telemetry.Attr{telemetry.String(telemetry.KeySite, r.site)}}}
	})()
	var wg sync.WaitGroup
	defer wg.Wait()
	watch := func(k kube.Kind, known **[]kube.Values) {
		wg.Go(func() {
			opts := kube.WatchOptions{Namespace: r.namespace, OnError: func(err error) { r.failed(ctx, k, err) }}
			r.client.WatchValues(ctx, k, opts, func(all []kube.Values) { r.learn(known, all) })
		})
	}
	watch(kube.ConfigMaps, &r.configMaps)
	secrets := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
		}
		wantsSecrets, ok := r.compile(ctx)
		if ok {
			ready()
		}
		if wantsSecrets && !secrets { // read only where a rule asks for it
			secrets = true
			watch(kube.Secrets, &r.secrets)
		}
	}
}

// attach has use called with the rules in force, now and whenever they change. Calls
// come one at a time.
func (r *sourceRules) attach(use func(*transform.Set)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.use = use
	use(r.inForce)
}

// check is the readiness: what is wrong with the rules as the ConfigMaps have them.
func (r *sourceRules) check(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

func (r *sourceRules) learn(known **[]kube.Values, all []kube.Values) {
	r.mu.Lock()
	*known = &all
	r.mu.Unlock()
	r.signal()
}

func (r *sourceRules) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// failed notes that ConfigMaps or Secrets cannot be read, or, with nil, that they can again.
func (r *sourceRules) failed(ctx context.Context, k kube.Kind, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	kind := k.GroupResource.String()
	r.mu.Lock()
	news := r.unreadable[kind] != text
	r.unreadable[kind] = text
	r.mu.Unlock()
	if !news {
		return
	}
	if err != nil {
		r.log.WarnContext(ctx, "cannot read rules of stage source: grant get, list and watch in the collector's namespace, or give --source-rules=false",
			telemetry.KeyKind, kind, telemetry.KeyNamespace, r.namespace, telemetry.KeyError, err)
	}
	r.signal()
}

// compile compiles the rules as they are and puts them in force if they are others than
// before. wantsSecrets says that a rule refers to a Secret; ok that what the
// ConfigMaps say is in force.
func (r *sourceRules) compile(ctx context.Context) (wantsSecrets, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.configMaps == nil {
		if why := r.unreadable[kube.ConfigMaps.GroupResource.String()]; why != "" {
			r.problem = fmt.Errorf("the ConfigMaps with rules cannot be read, nothing is published: %s", why)
		}
		return false, false
	}
	look := &lookup{rules: r, digest: sha256.New()}
	docs := r.documents(look.digest)
	set, err := transform.Compile(docs, transform.Options{Stage: transform.AtSource, Lookup: look})
	if look.waiting {
		return true, false // for the Secrets
	}
	if err != nil {
		r.refuse(ctx, err)
		return look.secrets, false
	}
	digest := [sha256.Size]byte(look.digest.Sum(nil))
	first, broken := r.inForce == nil, r.problem != nil
	r.problem = nil
	if !first && digest == r.digest {
		if broken {
			r.log.InfoContext(ctx, "rules of stage source are again as those in force")
		}
		return look.secrets, true
	}
	r.inForce, r.digest = set, digest
	if n := len(set.Rules()); n > 0 || !first {
		r.log.InfoContext(ctx, "rules of stage source are in force", telemetry.KeyCount, n)
	}
	if r.use != nil {
		r.use(set)
	}
	return look.secrets, true
}

// refuse notes rules that do not compile. r.mu is held.
func (r *sourceRules) refuse(ctx context.Context, err error) {
	effect := "the former rules stay in force"
	if r.inForce == nil {
		effect = "nothing is published"
	}
	problem := fmt.Errorf("rules of stage source do not compile, %s: %w", effect, err)
	if r.problem != nil && r.problem.Error() == problem.Error() {
		return
	}
	r.problem = problem
	r.log.ErrorContext(ctx, "rules of stage source do not compile", telemetry.KeyState, effect, telemetry.KeyError, err)
}

// documents are the keys of the ConfigMaps with rules. r.mu is held.
func (r *sourceRules) documents(digest hash.Hash) []transform.Document {
	var docs []transform.Document
	for _, v := range *r.configMaps {
		if v.Labels[v1alpha1.LabelTransform] != "true" {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(v.Data)) {
			d := transform.Document{ConfigMap: v.Namespace + "/" + v.Name, Key: key, Text: v.Data[key]}
			docs = append(docs, d)
			write(digest, d.ConfigMap, d.Key, d.Text)
		}
		for _, key := range v.NotText {
			d := transform.Document{ConfigMap: v.Namespace + "/" + v.Name, Key: key, NotText: true}
			docs = append(docs, d)
			write(digest, d.ConfigMap, d.Key, "not text")
		}
	}
	return docs
}

// write adds texts to a digest, so that no two lists of them are alike.
func write(digest hash.Hash, texts ...string) {
	for _, t := range texts {
		_, _ = fmt.Fprintf(digest, "%d:%s", len(t), t) // a hash never fails
	}
}

// lookup resolves params while rules are compiled. rules.mu is held.
type lookup struct {
	rules  *sourceRules
	digest hash.Hash
	// secrets: a rule refers to one. waiting: they are not known yet.
	secrets, waiting bool
}

// Lookup implements transform.Lookup.
func (l *lookup) Lookup(ref transform.Reference) (string, error) {
	known := l.rules.configMaps
	if ref.Secret {
		l.secrets = true
		known = l.rules.secrets
	}
	if known == nil {
		if why := l.rules.unreadable[kube.Secrets.GroupResource.String()]; why != "" {
			return "", errors.New(why)
		}
		l.waiting = true
		return "", nil
	}
	for _, v := range *known {
		if v.Name != ref.Name {
			continue
		}
		value, ok := v.Data[ref.Key]
		if !ok {
			return "", errors.New("it has no such key, or one that is not text")
		}
		write(l.digest, ref.String(), value)
		return value, nil
	}
	return "", fmt.Errorf("there is none in namespace %s", l.rules.namespace)
}
