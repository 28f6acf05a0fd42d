package kube_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

func TestCreate(t *testing.T) {
	c := kubetest.Shared(t)
	if err := c.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: creating}"); err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","labels":{"of":"create"}},"data":{"a":"b"}}`)
	var made atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range cap(errs) {
		wg.Go(func() {
			o, err := c.Client().Create(t.Context(), kube.ConfigMaps, "creating", body)
			switch {
			case err == nil && o.UID != "" && strings.Contains(string(o.Raw), `"a":"b"`):
				made.Add(1)
			case !kube.IsExists(err):
				errs <- fmt.Errorf("create: %+v: %w", o, errors.Join(err))
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if made.Load() != 1 {
		t.Errorf("%d of %d who create at once have made it", made.Load(), cap(errs))
	}
}

func TestFind(t *testing.T) {
	c := kubetest.Shared(t)
	if err := c.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: finding}"); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m%d","labels":{"odd":"%t"}},"data":{"i":"%d"}}`, i, i%2 == 1, i)
		if _, err := c.Client().Create(t.Context(), kube.ConfigMaps, "finding", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	found, err := c.Client().Find(t.Context(), kube.ConfigMaps, "finding", "odd=true")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range found {
		names = append(names, o.Name)
		v, err := kube.ReadValues(o)
		if err != nil || "m"+v.Data["i"] != o.Name {
			t.Errorf("%s holds %v, %v", o.Name, v.Data, err)
		}
	}
	if got := strings.Join(names, " "); got != "m1 m3" {
		t.Errorf("found %q", got)
	}
	everywhere, err := c.Client().Find(t.Context(), kube.ConfigMaps, "", "odd")
	if err != nil || len(everywhere) != 4 {
		t.Errorf("in all namespaces: %d, %v", len(everywhere), err)
	}
}

func TestMerge(t *testing.T) {
	c := kubetest.Shared(t)
	if err := c.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: merging}"); err != nil {
		t.Fatal(err)
	}
	made, err := c.Client().Create(t.Context(), kube.ConfigMaps, "merging", []byte(`{"metadata":{"name":"one"},"data":{"a":"1","b":"2"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Client().Merge(t.Context(), kube.ConfigMaps, "merging", "one", []byte(`{"metadata":{"uid":"`+made.UID+`"},"data":{"b":"3"}}`)); err != nil {
			t.Fatal(err)
		}
	}
	o, err := c.Client().Get(t.Context(), kube.ConfigMaps, "merging", "one")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := kube.ReadValues(o); err != nil || v.Data["a"] != "1" || v.Data["b"] != "3" {
		t.Errorf("it holds %v, %v", v.Data, err)
	}
	err = c.Client().Merge(t.Context(), kube.ConfigMaps, "merging", "one", []byte(`{"metadata":{"uid":"other"},"data":{"b":"4"}}`))
	if !kube.IsConflict(err) {
		t.Errorf("changing another object of the name: %v", err)
	}
}
