package kube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// The kinds that hold keys and values, as every API server serves them.
var (
	ConfigMaps = Kind{
		GroupResource: pipeline.GroupResource{Resource: "configmaps"}, Version: "v1", Kind: "ConfigMap", Namespaced: true,
	}
	Secrets = Kind{
		GroupResource: pipeline.GroupResource{Resource: "secrets"}, Version: "v1", Kind: "Secret", Namespaced: true,
	}
)

// Values is a ConfigMap or Secret as the text that it holds.
type Values struct {
	Namespace, Name, Version string
	Labels                   map[string]string
	// Data are the texts by key, a Secret's decoded.
	Data map[string]string
	// NotText are the keys, sorted, of values that are not text and so not in Data:
	// the binaryData of a ConfigMap, and bytes that are no UTF-8.
	NotText []string
}

// errNoValues is what ReadValues says of everything it cannot read: never what was in it.
var errNoValues = pipeline.WithClass(pipeline.Malformed, errors.New("its data is not text by key"))

// ReadValues reads a ConfigMap or Secret. An error is of class Malformed and
// holds nothing of the object.
func ReadValues(o Object) (Values, error) {
	root := gjson.ParseBytes(o.Raw)
	v := Values{
		Namespace: o.Namespace, Name: o.Name, Version: o.Version,
		Labels: stringMap(root.Get("metadata.labels")), Data: map[string]string{},
	}
	ok := true
	read := func(key, value gjson.Result, encoded bool) bool {
		text := clone(value)
		if ok = value.Type == gjson.String; ok && encoded {
			decoded, err := base64.StdEncoding.DecodeString(text)
			ok, text = err == nil, string(decoded)
		}
		switch {
		case ok && utf8.ValidString(text):
			v.Data[clone(key)] = text
		case ok:
			v.NotText = append(v.NotText, clone(key))
		}
		return ok
	}
	secret := o.Kind == Secrets.Kind
	root.Get("data").ForEach(func(key, value gjson.Result) bool { return read(key, value, secret) })
	if ok && secret { // in manifests only
		root.Get("stringData").ForEach(func(key, value gjson.Result) bool { return read(key, value, false) })
	}
	root.Get("binaryData").ForEach(func(key, _ gjson.Result) bool {
		v.NotText = append(v.NotText, clone(key))
		return true
	})
	slices.Sort(v.NotText)
	if !ok {
		return Values{}, fmt.Errorf("read %s %s/%s: %w", o.Kind, o.Namespace, o.Name, errNoValues)
	}
	return v, nil
}

// WatchValues tells changed all that the ConfigMaps or Secrets (k) which opts
// select hold, sorted by namespace and name: when the first complete list has ended,
// and again after every change, until ctx ends. A failure is told to
// opts.OnError only; what was known stays. Calls come one at a time; the slice is
// the callee's to keep and not to write to. An object that cannot be read counts as one
// without data, and opts.OnError is told.
func (c *Client) WatchValues(ctx context.Context, k Kind, opts WatchOptions, changed func([]Values)) {
	c.Watch(ctx, k, opts, &valuesWatch{opts: opts, known: map[string]Values{}, changed: changed})
}

// ListValues reads what WatchValues tells first. It fails at the first error instead of trying again.
func (c *Client) ListValues(ctx context.Context, k Kind, opts WatchOptions) ([]Values, error) {
	listing, end := context.WithCancel(ctx)
	defer end()
	var all []Values
	var failed error
	listed := false
	opts.OnError = func(err error) {
		if err != nil && !errors.Is(err, errNoValues) && failed == nil && !listed {
			failed = err
			end()
		}
	}
	c.WatchValues(listing, k, opts, func(v []Values) {
		if !listed {
			all, listed = v, true
		}
		end()
	})
	switch {
	case listed:
		return all, nil
	case failed != nil:
		return nil, failed
	}
	return nil, ctx.Err()
}

// valuesWatch is the Handler of WatchValues.
type valuesWatch struct {
	opts    WatchOptions
	known   map[string]Values
	changed func([]Values)
	listed  bool
}

func valuesKey(o Object) string { return o.Namespace + "/" + o.Name }

// Observe implements Handler.
func (w *valuesWatch) Observe(o Object) {
	key := valuesKey(o)
	if former, ok := w.known[key]; ok && former.Version == o.Version {
		return
	}
	v, err := ReadValues(o)
	if err != nil {
		if w.opts.OnError != nil {
			w.opts.OnError(err)
		}
		v = Values{Namespace: o.Namespace, Name: o.Name, Version: o.Version}
	}
	w.known[key] = v
	w.tell()
}

// Delete implements Handler.
func (w *valuesWatch) Delete(o Object) {
	delete(w.known, valuesKey(o))
	w.tell()
}

// Replace implements Handler.
func (w *valuesWatch) Replace(present []Object, _ string) {
	there := make(map[string]bool, len(present))
	for _, o := range present {
		there[valuesKey(o)] = true
	}
	maps.DeleteFunc(w.known, func(key string, _ Values) bool { return !there[key] })
	w.listed = true
	w.tell()
}

// Progress implements Handler.
func (w *valuesWatch) Progress(string) {}

func (w *valuesWatch) tell() {
	if !w.listed {
		return
	}
	all := slices.Collect(maps.Values(w.known))
	slices.SortFunc(all, func(a, b Values) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	w.changed(all)
}
