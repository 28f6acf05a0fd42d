package kube_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestReadValues(t *testing.T) {
	labels := map[string]string{"a": "b"}
	for name, tc := range map[string]struct {
		kind, raw string
		want      kube.Values
		wrong     bool
	}{
		"ConfigMap":   {"ConfigMap", `{"metadata":{"labels":{"a":"b"}},"data":{"k":"v\u00fc","":"x"},"binaryData":{"b":"AA=="}}`, kube.Values{Labels: labels, Data: map[string]string{"k": "vü", "": "x"}, NotText: []string{"b"}}, false},
		"Secret":      {"Secret", `{"data":{"k":"djE=","bytes":"/w=="}}`, kube.Values{Data: map[string]string{"k": "v1"}, NotText: []string{"bytes"}}, false},
		"Manifest":    {"Secret", `{"data":{"k":"djE=","l":"djE="},"stringData":{"k":"v2"}}`, kube.Values{Data: map[string]string{"k": "v2", "l": "v1"}}, false},
		"Empty":       {"ConfigMap", `{"data":{}}`, kube.Values{Data: map[string]string{}}, false},
		"NoData":      {"Secret", `{}`, kube.Values{Data: map[string]string{}}, false},
		"NotBase64":   {"Secret", `{"data":{"k":"hunter2!"}}`, kube.Values{}, true},
		"NotText":     {"ConfigMap", `{"data":{"k":{"hunter2":1}}}`, kube.Values{}, true},
		"NumberInOne": {"Secret", `{"data":{"a":"djE=","k":1}}`, kube.Values{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := kube.ReadValues(kube.Object{Namespace: "n", Name: "o", Kind: tc.kind, Raw: []byte(tc.raw)})
			if tc.wrong {
				if pipeline.ClassOf(err) != pipeline.Malformed || strings.Contains(fmt.Sprint(err), "hunter2") {
					t.Fatalf("error %v, want one that is malformed and says nothing of the value", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Namespace, tc.want.Name = "n", "o"
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
		})
	}
}

// told is what WatchValues said last.
type told struct {
	mu    sync.Mutex
	all   []kube.Values
	times int
	errs  []error
}

func (w *told) changed(all []kube.Values) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all, w.times = all, w.times+1
}

func (w *told) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

func (w *told) is(want ...kube.Values) (diff string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.times == 0 {
		return "nothing was told"
	}
	return cmp.Diff(want, w.all, cmpopts.IgnoreFields(kube.Values{}, "Version"), cmpopts.EquateEmpty())
}

func watchValues(t *testing.T, c *kube.Client, k kube.Kind, opts kube.WatchOptions) *told {
	t.Helper()
	w := &told{}
	opts.OnError = w.failed
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.WatchValues(ctx, k, opts, w.changed)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func TestWatchValues(t *testing.T) {
	cluster := kubetest.Shared(t)
	c := cluster.Client()
	ns := namespace(t, c)
	apply := func(kind, name, label, value string) {
		t.Helper()
		data := "data: {k: " + value + "}"
		if kind == "Secret" {
			data = "stringData: {k: " + value + "}"
		}
		if err := cluster.Apply(fmt.Sprintf("apiVersion: v1\nkind: %s\nmetadata: {name: %s, namespace: %s, labels: {use: %q}}\n%s\n", kind, name, ns, label, data)); err != nil {
			t.Fatal(err)
		}
	}
	values := func(name, label, value string) kube.Values {
		return kube.Values{Namespace: ns, Name: name, Labels: map[string]string{"use": label}, Data: map[string]string{"k": value}}
	}
	settled := func(w *told, want ...kube.Values) {
		t.Helper()
		diff := ""
		eventually(t, "the values are told", func() bool { diff = w.is(want...); return diff == "" })
	}

	opts := kube.WatchOptions{Namespace: ns, LabelSelector: "use=yes"}
	w := watchValues(t, c, kube.ConfigMaps, opts)
	settled(w)
	apply("ConfigMap", "b", "yes", "one")
	apply("ConfigMap", "other", "no", "one")
	apply("ConfigMap", "a", "yes", "two")
	settled(w, values("a", "yes", "two"), values("b", "yes", "one"))
	apply("ConfigMap", "b", "no", "one")
	settled(w, values("a", "yes", "two"))
	apply("ConfigMap", "a", "yes", "three")
	settled(w, values("a", "yes", "three"))

	apply("Secret", "s", "yes", "hunter2")
	secrets := watchValues(t, c, kube.Secrets, opts)
	settled(secrets, values("s", "yes", "hunter2"))
	listed, err := c.ListValues(t.Context(), kube.Secrets, opts)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]kube.Values{values("s", "yes", "hunter2")}, listed, cmpopts.IgnoreFields(kube.Values{}, "Version")); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
}

func TestValuesThatMayNotBeRead(t *testing.T) {
	cluster := kubetest.Shared(t)
	c := connect(t, cluster.User("values-nobody"))
	w := watchValues(t, c, kube.Secrets, kube.WatchOptions{Namespace: "default"})
	eventually(t, "it is told", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.errs) > 0 && pipeline.ClassOf(w.errs[0]) == pipeline.Forbidden && w.times == 0
	})
	if _, err := c.ListValues(t.Context(), kube.Secrets, kube.WatchOptions{Namespace: "default"}); pipeline.ClassOf(err) != pipeline.Forbidden {
		t.Errorf("error %v, want one that is forbidden", err)
	}
}
