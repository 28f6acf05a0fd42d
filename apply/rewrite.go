package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// desired is what a copy must look like. It is made from the record's body
// without decoding: members keep their order, numbers their digits.
type desired struct {
	namespace, name string
	// body is the copy without the annotations of ours; digest is its digest.
	body   []byte
	digest pipeline.Digest
	// annotations is the offset in body of the closing brace of metadata.annotations,
	// metadata that of metadata itself. annotations is 0 if there are none.
	annotations, metadata int
	bare                  bool // annotations is there but empty
	// stray: rules have put it elsewhere than the Replication's mapping does.
	stray bool
}

func (d *desired) key() key { return key{d.namespace, d.name} }

// local are the members of metadata that describe an object in its own cluster.
// The collector strips them; they would break a server-side apply, or with
// foreign owner UIDs make the garbage collector delete the copy, so they are
// never let through here either.
var local = []string{
	"ownerReferences", "uid", "resourceVersion", "generation", "creationTimestamp",
	"deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields",
}

const labelNamespaceName = "kubernetes.io/metadata.name"

// rewriter makes desired objects for one Replication.
type rewriter struct {
	mark string
	// mapNamespace is for references inside objects.
	mapNamespace func(string) string
}

// desire makes the desired object from a put's body, for a place. It reads only r's
// Ref, APIVersion and Kind.
func (w rewriter) desire(r pipeline.Record, body []byte, place key) (desired, error) {
	text := string(body)
	root := gjson.Parse(text)
	if !root.IsObject() || !gjson.Valid(text) {
		return desired{}, errors.New("read body: not a JSON object")
	}
	meta := root.Get("metadata")
	if !meta.IsObject() {
		return desired{}, errors.New("read body: it has no metadata")
	}
	var d desired
	d.namespace, d.name = place.namespace, place.name
	var e edits
	for _, ref := range references[r.Ref.GroupResource()] {
		w.refer(&e, root, ref.path, ref.to)
	}
	fresh := w.metadata(r.Ref, meta, &d)
	e.replace(meta, fresh)
	e.insert(root.Index+1, missing(root, "apiVersion", r.APIVersion)+missing(root, "kind", r.Kind))

	// Offsets were relative to the new metadata so far.
	start := 0
	d.body, start = e.apply(text, meta.Index)
	d.metadata += start
	if d.annotations > 0 {
		d.annotations += start
	}
	d.digest = pipeline.DigestOf(d.body)
	return d, nil
}

// metadata is the new metadata of the object; d learns where its parts end.
func (w rewriter) metadata(ref pipeline.Ref, old gjson.Result, d *desired) string {
	b := make([]byte, 0, len(old.Raw)+len(w.mark)+96)
	b = append(b, '{')
	var named, placed, labeled bool
	old.ForEach(func(k, v gjson.Result) bool {
		switch key := k.String(); {
		case slices.Contains(local, key):
		case key == "name":
			b, named = appendMember(b, "name", d.name), true
		case key == "namespace":
			if d.namespace != "" {
				b, placed = appendMember(b, "namespace", d.namespace), true
			}
		case key == "labels":
			b, labeled = w.labels(b, ref, v, d.name), true
		case key == "annotations":
			if v.IsObject() {
				b = append(appendComma(b), `"annotations":`...)
				open := len(b)
				b = appendWithout(b, v, v1alpha1.AnnotationOrigin, v1alpha1.AnnotationDigest)
				d.annotations, d.bare = len(b)-1, len(b)-open == 2
			}
		default:
			b = append(append(append(appendComma(b), k.Raw...), ':'), v.Raw...)
		}
		return true
	})
	if !named {
		b = appendMember(b, "name", d.name)
	}
	if !placed && d.namespace != "" {
		b = appendMember(b, "namespace", d.namespace)
	}
	if !labeled {
		b = w.labels(b, ref, gjson.Result{}, d.name)
	}
	d.metadata = len(b)
	return string(append(b, '}'))
}

// labels appends the labels with our mark.
func (w rewriter) labels(b []byte, ref pipeline.Ref, old gjson.Result, name string) []byte {
	b = append(appendComma(b), `"labels":`...)
	if !isNamespace(ref.GroupResource()) {
		b = appendWithout(b, old, v1alpha1.LabelReplication)
		b = b[:len(b)-1]
	} else {
		b = appendWithout(b, old, v1alpha1.LabelReplication, labelNamespaceName)
		b = appendMember(b[:len(b)-1], labelNamespaceName, name)
	}
	return append(appendMember(b, v1alpha1.LabelReplication, w.mark), '}')
}

// binding says which object a body may be applied to. The server refuses any other.
type binding struct {
	// uid, if not empty, is of the object that it must be.
	uid string
	// fresh means that there must be no such object.
	fresh bool
}

// neverVersion is a resourceVersion that no object has: the store's revisions of objects
// begin at 2. A server-side apply that names it creates an object or is refused.
const neverVersion = "1"

// marked is the body to send: with the annotations of ours, and bound.
func (d desired) marked(origin Origin, to binding) []byte {
	ours := make([]byte, 1, 256)
	ours[0] = '{'
	ours = appendMember(ours, v1alpha1.AnnotationOrigin, origin.String())
	ours = appendMember(ours, v1alpha1.AnnotationDigest, d.digest.String())
	ours = ours[1:]

	out := make([]byte, 0, len(d.body)+len(ours)+len(to.uid)+48)
	end := 0
	if d.annotations > 0 {
		end = d.annotations
		out = append(out, d.body[:end]...)
		if !d.bare {
			out = append(out, ',')
		}
		out = append(out, ours...)
	}
	out = append(out, d.body[end:d.metadata]...)
	if d.annotations == 0 {
		out = append(out, `,"annotations":{`...)
		out = append(out, ours...)
		out = append(out, '}')
	}
	if to.uid != "" {
		out = appendMember(out, "uid", to.uid)
	}
	if to.fresh {
		out = appendMember(out, "resourceVersion", neverVersion)
	}
	return append(out, d.body[d.metadata:]...)
}

// missing is a member for the start of the object root, if root has it not.
func missing(root gjson.Result, name, value string) string {
	if value == "" || root.Get(name).Exists() {
		return ""
	}
	b := appendMember([]byte{'{'}, name, value)
	return string(append(b[1:], ','))
}

// appendMember appends a member of an object, with a comma unless it is the first.
func appendMember(b []byte, name, value string) []byte {
	b = gjson.AppendJSONString(appendComma(b), name)
	b = append(b, ':')
	return gjson.AppendJSONString(b, value)
}

// appendComma appends a comma unless the object in b was just opened.
func appendComma(b []byte) []byte {
	if b[len(b)-1] == '{' {
		return b
	}
	return append(b, ',')
}

// appendWithout appends the object v (an empty one if v is none) without some members.
func appendWithout(b []byte, v gjson.Result, without ...string) []byte {
	b = append(b, '{')
	if v.IsObject() {
		v.ForEach(func(k, v gjson.Result) bool {
			if slices.Contains(without, k.String()) {
				return true
			}
			b = append(append(append(appendComma(b), k.Raw...), ':'), v.Raw...)
			return true
		})
	}
	return append(b, '}')
}

// edits are replacements in a text.
type edits []edit

type edit struct {
	from, to int
	with     string
}

func (e *edits) replace(v gjson.Result, with string) {
	*e = append(*e, edit{v.Index, v.Index + len(v.Raw), with})
}

func (e *edits) insert(at int, text string) {
	if text != "" {
		*e = append(*e, edit{at, at, text})
	}
}

// setString replaces a string value by another.
func (e *edits) setString(v gjson.Result, to string) {
	if v.Type == gjson.String && v.Str != to {
		e.replace(v, string(gjson.AppendJSONString(nil, to)))
	}
}

// apply returns the edited text, and where what stood at offset now stands.
func (e *edits) apply(text string, offset int) (out []byte, moved int) {
	slices.SortStableFunc(*e, func(a, b edit) int { return a.from - b.from })
	size := len(text)
	for _, x := range *e {
		size += len(x.with) - (x.to - x.from)
	}
	out = make([]byte, 0, size)
	at := 0
	for _, x := range *e {
		out = append(out, text[at:x.from]...)
		if x.from == offset {
			moved = len(out)
		}
		out = append(out, x.with...)
		at = x.to
	}
	return append(out, text[at:]...), moved
}

// reference is a place inside a kind's objects that names a namespace.
type reference struct {
	path []string // "*" goes through an array
	to   referent
}

type referent uint8

const (
	// toNamespace: the value is a namespace's name.
	toNamespace referent = iota
	// toSubject: the value is a subject of a role binding.
	toSubject
	// toSelector: the value is a label selector of namespaces.
	toSelector
)

func at(to referent, path string) reference {
	return reference{path: strings.Split(path, "."), to: to}
}

// references follow the namespace mapping.
var references = func() map[pipeline.GroupResource][]reference {
	const (
		rbac      = "rbac.authorization.k8s.io"
		admission = "admissionregistration.k8s.io"
	)
	subjects := []reference{at(toSubject, "subjects.*")}
	webhooks := []reference{
		at(toNamespace, "webhooks.*.clientConfig.service.namespace"),
		at(toSelector, "webhooks.*.namespaceSelector"),
	}
	return map[pipeline.GroupResource][]reference{
		{Group: rbac, Resource: "rolebindings"}:                         subjects,
		{Group: rbac, Resource: "clusterrolebindings"}:                  subjects,
		{Group: admission, Resource: "validatingwebhookconfigurations"}: webhooks,
		{Group: admission, Resource: "mutatingwebhookconfigurations"}:   webhooks,
		{Group: "apiregistration.k8s.io", Resource: "apiservices"}: {
			at(toNamespace, "spec.service.namespace"),
		},
		crds:    {at(toNamespace, "spec.conversion.webhook.clientConfig.service.namespace")},
		volumes: {at(toNamespace, "spec.claimRef.namespace")},
		{Group: "networking.k8s.io", Resource: "networkpolicies"}: {
			at(toSelector, "spec.ingress.*.from.*.namespaceSelector"),
			at(toSelector, "spec.egress.*.to.*.namespaceSelector"),
		},
	}
}()

// refer adds the edits for one kind of reference under v.
func (w rewriter) refer(e *edits, v gjson.Result, path []string, to referent) {
	if len(path) > 0 {
		if path[0] != "*" {
			if v.IsObject() {
				w.refer(e, v.Get(path[0]), path[1:], to)
			}
			return
		}
		if v.IsArray() {
			v.ForEach(func(_, item gjson.Result) bool {
				w.refer(e, item, path[1:], to)
				return true
			})
		}
		return
	}
	switch to {
	case toNamespace:
		e.setString(v, w.mapNamespace(v.Str))
	case toSubject:
		w.referSubject(e, v)
	case toSelector:
		w.referSelector(e, v)
	}
}

// The names that a service account has as a user, and the group of a namespace's.
const (
	userOfAccount   = "system:serviceaccount:"
	groupOfAccounts = "system:serviceaccounts:"
)

func (w rewriter) referSubject(e *edits, v gjson.Result) {
	name := v.Get("name")
	switch v.Get("kind").Str {
	case "ServiceAccount":
		ns := v.Get("namespace")
		e.setString(ns, w.mapNamespace(ns.Str))
	case "User":
		if rest, ok := strings.CutPrefix(name.Str, userOfAccount); ok {
			if ns, account, ok := strings.Cut(rest, ":"); ok {
				e.setString(name, userOfAccount+w.mapNamespace(ns)+":"+account)
			}
		}
	case "Group":
		if ns, ok := strings.CutPrefix(name.Str, groupOfAccounts); ok {
			e.setString(name, groupOfAccounts+w.mapNamespace(ns))
		}
	}
}

// referSelector follows the one label of namespaces that holds their name.
func (w rewriter) referSelector(e *edits, v gjson.Result) {
	v.Get("matchLabels").ForEach(func(k, value gjson.Result) bool {
		if k.String() == labelNamespaceName {
			e.setString(value, w.mapNamespace(value.Str))
		}
		return true
	})
	v.Get("matchExpressions").ForEach(func(_, x gjson.Result) bool {
		if x.Get("key").Str == labelNamespaceName {
			x.Get("values").ForEach(func(_, value gjson.Result) bool {
				e.setString(value, w.mapNamespace(value.Str))
				return true
			})
		}
		return true
	})
}

// malformed says that a record's body cannot be made into an object.
func malformed(ref pipeline.Ref, err error) error {
	return pipeline.WithClass(pipeline.Malformed, fmt.Errorf("make copy of %s: %w", ref, err))
}
