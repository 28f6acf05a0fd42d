package transform

import (
	"fmt"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Document is one key of a ConfigMap of rules. A key ending in ".jq" is a
// module that rules import by the name before the ending; every other key is a
// YAML document of rules.
type Document struct {
	// ConfigMap is "namespace/name"; empty for a file, whose path is the Key.
	ConfigMap string
	Key       string
	Text      string
	// NotText says that the key holds bytes that are no text, like the binaryData of
	// a ConfigMap: a problem, and Text is empty.
	NotText bool
}

// Origin says where a rule comes from.
type Origin struct {
	// ConfigMap is "namespace/name", empty for files and, without a Key, built-in rules.
	ConfigMap string
	Key       string
}

// String is for messages.
func (o Origin) String() string {
	switch {
	case o == Origin{}:
		return "built in"
	case o.ConfigMap == "":
		return "file " + o.Key
	}
	return fmt.Sprintf("configmap %s, key %s", o.ConfigMap, o.Key)
}

// Rule is one rewriting: which objects, and how.
type Rule struct {
	Origin Origin
	// Name is unique within its ConfigMap.
	Name  string
	Match Match
	// JQ is the program. It gets the object and returns it, several objects of
	// the same kind, or nothing.
	JQ string
	// Order sorts rules; rules of the same order run in the order in which they
	// were given.
	Order   int
	OnError OnError
	Stage   Stage
	// Params are the members of $params.
	Params map[string]Param

	at       place // of the name
	jq, when text
}

// Match says which objects a rule is for. An empty field matches everything; a
// rule matches when all its fields do. Names are globs: "*" stands for any run
// of characters, "?" for one.
type Match struct {
	// Kinds are "resource" for the core group, else "group/resource". "*" alone
	// stands for every kind, "*/*", "apps/*" and "*/jobs" for any group or any
	// resource.
	Kinds      []string
	Namespaces []string
	Names      []string
	// Labels and Annotations are keys and globs for their values: "*" asks only
	// that the key is there.
	Labels      map[string]string
	Annotations map[string]string
	// When is a jq condition over the object, asked last: a first result of false
	// or null, or none at all, means no.
	When string
}

// Param is one value of $params: a literal, or a reference that Options.Lookup
// resolves when the rules are compiled.
type Param struct {
	// Value is JSON-like: nil, bool, int, float64, string, []any, map[string]any.
	Value any
	// From, when not nil, is where the value is; it is a string then.
	From *Reference

	at place
}

// Reference names a key of a Secret or ConfigMap in the namespace of the
// rules' ConfigMap.
type Reference struct {
	// Secret tells a Secret from a ConfigMap.
	Secret bool
	// Origin is the document with the reference.
	Origin    Origin
	Name, Key string
}

// String names the key, never its value.
func (r Reference) String() string {
	kind := "configmap"
	if r.Secret {
		kind = "secret"
	}
	return fmt.Sprintf("%s %s, key %s", kind, r.Name, r.Key)
}

// OnError says what to do with an object when a rule fails on it.
type OnError string

const (
	// Park fails the object: Run returns the error. The default.
	Park OnError = "park"
	// Skip leaves the object out: it is not written, an existing copy stays as it
	// is.
	Skip OnError = "skip"
	// Pass lets the object go on as if the rule had not matched.
	Pass OnError = "pass"
)

// Stage says at which side a rule runs.
type Stage string

const (
	// AtDestination is where rules run unless they say otherwise: a changed rule
	// can be run again over what the log holds.
	AtDestination Stage = "destination"
	// AtSource is before the log: what a rule removes there never leaves the site.
	AtSource Stage = "source"
)

// ID names a rule in results and errors.
type ID struct {
	Origin Origin
	Name   string
}

// String is "configmap ns/name, key k, rule "r"".
func (id ID) String() string { return fmt.Sprintf("%s, rule %q", id.Origin, id.Name) }

// ID names the rule.
func (r *Rule) ID() ID { return ID{Origin: r.Origin, Name: r.Name} }

// Object is one object on its way.
type Object struct {
	// Kind is what the API server calls it.
	Kind pipeline.GroupResource
	// Body is JSON, never written to by this package.
	Body []byte
}
