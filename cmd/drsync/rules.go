package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/control"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// ruleSource says where the rules of a command come from.
type ruleSource struct {
	files      []string
	configMaps []string
	// replication is NAMESPACE/NAME of one whose rules are meant.
	replication string
	standby     bool
	stage       string
}

func (r *ruleSource) flags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVarP(&r.files, "rules", "r", nil, "file with rules: a document of rules, a .jq module, or manifests of ConfigMaps and of the Secrets they take params from; may be repeated")
	fs.StringArrayVar(&r.configMaps, "configmap", nil, "ConfigMap with rules in the cluster, as NAMESPACE/NAME; may be repeated")
	fs.StringVar(&r.replication, "replication", "", "Replication in the cluster whose rules are meant, standby and mapping too, as NAMESPACE/NAME")
	fs.BoolVar(&r.standby, "standby", false, "add the standby profile")
	fs.StringVar(&r.stage, "stage", string(transform.AtDestination), "which rules run: those of the destination, or of the source")
}

func (r *ruleSource) validate() error {
	if stage := transform.Stage(r.stage); stage != transform.AtDestination && stage != transform.AtSource {
		return app.Usage(fmt.Errorf("--stage %q is not one of destination, source", r.stage))
	}
	return nil
}

// ruleBook is what rules are made of: their documents, further rules, and the values of
// their params.
type ruleBook struct {
	documents []transform.Document
	builtIn   []transform.Rule
	// values are ConfigMaps and Secrets by "secret ns/name" or "configmap ns/name".
	values map[string]map[string]string
	mask   *mask
	// replication is the one whose rules these are, if they are one's.
	replication *v1alpha1.Replication
	// everyConfigMap in a file holds rules, with the label or without.
	everyConfigMap bool
}

// read collects the rules of a source.
func (c *cli) readRules(ctx context.Context, r ruleSource) (*ruleBook, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	b := &ruleBook{values: map[string]map[string]string{}, mask: &mask{off: c.showSecrets}}
	if r.standby {
		b.builtIn = transform.Standby{}.Rules()
	}
	for _, file := range r.files {
		text, err := c.readFile(file)
		if err != nil {
			return nil, app.Usage(err)
		}
		if err := b.addFile(file, text); err != nil {
			return nil, app.Usage(err)
		}
	}
	if len(r.configMaps) == 0 && r.replication == "" {
		return b, nil
	}
	client, err := c.cluster(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if r.replication != "" {
		if err := b.addReplication(ctx, client, r.replication, c.namespace); err != nil {
			return nil, err
		}
	}
	for _, name := range r.configMaps {
		if err := b.addConfigMap(ctx, client, name); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// readFile reads a file, "-" being standard input.
func (c *cli) readFile(path string) (string, error) {
	var text []byte
	var err error
	if path == "-" {
		text, err = io.ReadAll(c.in)
	} else {
		text, err = os.ReadFile(path) //nolint:gosec // the user names the file
	}
	if err != nil {
		return "", fmt.Errorf("read file: %w", err)
	}
	return string(text), nil
}

// addFile adds a document of rules, a module, or manifests.
func (b *ruleBook) addFile(path, text string) error {
	if strings.HasSuffix(path, ".jq") {
		b.documents = append(b.documents, transform.Document{Key: filepath.Base(path), Text: text})
		return nil
	}
	objects, err := transform.ReadObjects(text)
	if err != nil || len(objects) == 0 {
		// Not of manifests: Compile says what is wrong with it as rules.
		b.documents = append(b.documents, transform.Document{Key: path, Text: text})
		return nil //nolint:nilerr // see above
	}
	for _, o := range objects {
		target := transform.TargetOf(o)
		kind := kube.ConfigMaps
		switch o.Kind {
		case kube.ConfigMaps.GroupResource:
		case secrets:
			kind = kube.Secrets
		default:
			return fmt.Errorf("%s: %s is no place for rules: give documents of rules, .jq modules, ConfigMaps and Secrets", path, target)
		}
		v, err := kube.ReadValues(kube.Object{Namespace: cmp.Or(target.Namespace, "default"), Name: target.Name, Kind: kind.Kind, Raw: o.Body})
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if o.Kind == secrets {
			b.values["secret "+v.Namespace+"/"+v.Name] = v.Data
			continue
		}
		b.addValues(v, b.everyConfigMap)
	}
	return nil
}

// ruleDocument is what a document of rules holds.
var ruleDocument = regexp.MustCompile(`(?m)^"?rules"?\s*:`)

// holdsRules tells a ConfigMap with rules from one with values for params: by the
// label, or, as names in spec.transforms need none, by what is in it.
func holdsRules(v kube.Values) bool {
	if v.Labels[v1alpha1.LabelTransform] == "true" {
		return true
	}
	for key, text := range v.Data {
		if strings.HasSuffix(key, ".jq") || ruleDocument.MatchString(text) {
			return true
		}
	}
	return false
}

// addValues takes a ConfigMap in: its keys as rules if they are, or if asRules.
func (b *ruleBook) addValues(v kube.Values, asRules bool) {
	name := v.Namespace + "/" + v.Name
	b.values["configmap "+name] = v.Data
	if !asRules && !holdsRules(v) {
		return
	}
	var documents []transform.Document
	for _, key := range slices.Sorted(maps.Keys(v.Data)) {
		documents = append(documents, transform.Document{ConfigMap: name, Key: key, Text: v.Data[key]})
	}
	for _, key := range v.NotText {
		documents = append(documents, transform.Document{ConfigMap: name, Key: key, NotText: true})
	}
	b.replace(name, documents)
}

// replace puts documents where those of a ConfigMap were, if there were some: rules of the
// same order run in that of their documents.
func (b *ruleBook) replace(configMap string, documents []transform.Document) {
	of := func(d transform.Document) bool { return d.ConfigMap == configMap }
	at := slices.IndexFunc(b.documents, of)
	if at < 0 {
		at = len(b.documents)
	}
	b.documents = slices.Insert(slices.DeleteFunc(b.documents, of), at, documents...)
}

// configMaps are those with rules, by name.
func (b *ruleBook) configMaps() map[string]bool {
	names := map[string]bool{}
	for _, d := range b.documents {
		if d.ConfigMap != "" {
			names[d.ConfigMap] = true
		}
	}
	return names
}

func (b *ruleBook) documentsOf(configMap string) []transform.Document {
	return slices.DeleteFunc(slices.Clone(b.documents), func(d transform.Document) bool { return d.ConfigMap != configMap })
}

// addReplication takes the rules of a Replication.
func (b *ruleBook) addReplication(ctx context.Context, client *kube.Client, name, system string) error {
	repl, err := readReplication(ctx, client, name)
	if err != nil {
		return err
	}
	own, err := client.ListValues(ctx, kube.ConfigMaps, kube.WatchOptions{Namespace: repl.Namespace})
	if err != nil {
		return err
	}
	offered, err := client.ListValues(ctx, kube.ConfigMaps, kube.WatchOptions{Namespace: system})
	if err != nil {
		return err
	}
	documents, builtIn, err := control.Rules(repl, system, own, offered)
	if err != nil {
		return fmt.Errorf("rules of replication %s: %w", name, err)
	}
	b.documents, b.builtIn, b.replication = append(b.documents, documents...), append(b.builtIn, builtIn...), repl
	return b.addReferences(ctx, client)
}

// replications are the kind.
var replications = pipeline.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "replications"}

// readReplication reads the Replication NAMESPACE/NAME.
func readReplication(ctx context.Context, client *kube.Client, name string) (*v1alpha1.Replication, error) {
	namespace, name, err := splitName(name)
	if err != nil {
		return nil, err
	}
	kind, err := client.Kind(ctx, replications)
	if err != nil {
		return nil, fmt.Errorf("%w: is this the destination, with DR-Syncer installed?", err)
	}
	o, err := client.Get(ctx, kind, namespace, name)
	if err != nil {
		return nil, err
	}
	repl := &v1alpha1.Replication{}
	if err := json.Unmarshal(o.Raw, repl); err != nil {
		return nil, fmt.Errorf("read replication %s/%s: %w", namespace, name, err)
	}
	return repl, nil
}

// splitName takes NAMESPACE/NAME apart.
func splitName(full string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(full, "/")
	if !ok || namespace == "" || name == "" {
		return "", "", app.Usage(fmt.Errorf("%q is not of the form NAMESPACE/NAME", full))
	}
	return namespace, name, nil
}

// addConfigMap reads a ConfigMap of the cluster, and what its rules refer to.
func (b *ruleBook) addConfigMap(ctx context.Context, client *kube.Client, name string) error {
	namespace, name, err := splitName(name)
	if err != nil {
		return err
	}
	o, err := client.Get(ctx, kube.ConfigMaps, namespace, name)
	if err != nil {
		return err
	}
	v, err := kube.ReadValues(o)
	if err != nil {
		return err
	}
	b.addValues(v, true)
	return b.addReferences(ctx, client)
}

// addReferences reads the Secrets and ConfigMaps of the cluster that rules refer to.
// What is not there is left for Compile to tell.
func (b *ruleBook) addReferences(ctx context.Context, client *kube.Client) error {
	rules, _ := transform.Parse(b.documents...)
	for _, r := range rules {
		for _, p := range r.Params {
			if p.From == nil {
				continue
			}
			key, namespace := b.key(*p.From)
			if _, known := b.values[key]; known || namespace == "" {
				continue
			}
			kind := kube.ConfigMaps
			if p.From.Secret {
				kind = kube.Secrets
			}
			o, err := client.Get(ctx, kind, namespace, p.From.Name)
			if kube.IsNotFound(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read what rule %q of %s refers to: %w", r.Name, r.Origin, err)
			}
			v, err := kube.ReadValues(o)
			if err != nil {
				return err
			}
			b.values[key] = v.Data
		}
	}
	return nil
}

// key finds a reference among values; the namespace is that of the rules' ConfigMap.
func (b *ruleBook) key(ref transform.Reference) (key, namespace string) {
	namespace, _, _ = strings.Cut(ref.Origin.ConfigMap, "/")
	kind := "configmap "
	if ref.Secret {
		kind = "secret "
	}
	if namespace == "" {
		// Rules in a file have no namespace: any will do, if only one has the name.
		for k := range b.values {
			if strings.HasPrefix(k, kind) && strings.HasSuffix(k, "/"+ref.Name) {
				return k, ""
			}
		}
	}
	return kind + namespace + "/" + ref.Name, namespace
}

// Lookup implements transform.Lookup. Values of Secrets will be masked.
func (b *ruleBook) Lookup(ref transform.Reference) (string, error) {
	key, _ := b.key(ref)
	data, ok := b.values[key]
	if !ok {
		return "", errors.New("not found: create it, or give its manifest with --rules")
	}
	value, ok := data[ref.Key]
	if !ok {
		return "", errors.New("it has no such key, or one that is not text")
	}
	if ref.Secret {
		b.mask.add(value)
	}
	return value, nil
}

// env is what rules know of their surroundings.
func (b *ruleBook) env(given transform.Env) transform.Env {
	if r := b.replication; r != nil {
		given.SourceSite, given.ReplicationNamespace, given.ReplicationName = r.Spec.Source.Site, r.Namespace, r.Name
	}
	return given
}

// compile makes a Set of the rules.
func (b *ruleBook) compile(stage string) (*transform.Set, error) {
	return transform.Compile(b.documents, transform.Options{Stage: transform.Stage(stage), Rules: b.builtIn, Lookup: b})
}

// problems says on standard error what keeps rules from compiling, with carets.
func (c *cli) problems(err error) error {
	problems, ok := errors.AsType[transform.Problems](err)
	if !ok {
		return err
	}
	p := &printer{colored: c.color == colorAlways || c.color == colorAuto && os.Getenv("NO_COLOR") == "" && isTerminal(c.err)}
	for _, problem := range problems {
		first, rest, _ := strings.Cut(problem.Error(), "\n")
		p.printf(red, "%s\n", first)
		if rest != "" {
			p.printf(plain, "%s\n", rest)
		}
	}
	if _, err := c.err.Write(p.out.Bytes()); err != nil {
		return fmt.Errorf("write problems: %w", err)
	}
	if len(problems) == 1 {
		return c.no("the rules do not compile: 1 problem")
	}
	return c.no("the rules do not compile: %d problems", len(problems))
}
