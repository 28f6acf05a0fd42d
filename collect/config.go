package collect

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Config says what is collected and how. It is what users write in the file of
// --config; the zero value of a field is not its default: start from Default.
type Config struct {
	Namespaces NamespaceConfig `json:"namespaces"`
	Kinds      KindConfig      `json:"kinds"`
	Labels     LabelConfig     `json:"labels"`
	// OwnedByCustom says what happens to objects that a custom resource controls.
	OwnedByCustom OwnedByCustom `json:"ownedByCustom"`
	// HelmReleases collects the Secrets in which helm keeps its releases, and with
	// them helm's marks on objects. Only useful to run helm at the destination.
	HelmReleases bool         `json:"helmReleases"`
	Clean        CleanConfig  `json:"clean"`
	Outbox       OutboxConfig `json:"outbox"`
	// Heartbeat is the time between two heartbeats.
	Heartbeat Duration `json:"heartbeat"`
	// Discovery is the longest time between two looks at which kinds are served.
	Discovery Duration `json:"discovery"`
}

// NamespaceConfig selects namespaced objects, and Namespaces themselves, by
// name or glob ("*" any run of characters, "?" one). Cluster-scoped objects are
// not affected.
type NamespaceConfig struct {
	// Include selects. A name without wildcards also lifts the default exclusion of
	// that namespace.
	Include []string `json:"include"`
	// Exclude takes out again, whatever Include says.
	Exclude []string `json:"exclude"`
}

// KindConfig selects kinds as "resource" (core group) or "group/resource"; "*"
// stands for any group, any resource or, alone, for everything.
type KindConfig struct {
	// Include selects. A kind without wildcards also lifts the default exclusion of
	// that kind.
	Include []string `json:"include"`
	// Exclude takes out again, whatever Include says.
	Exclude []string `json:"exclude"`
}

// LabelConfig selects objects by label selector ("app=shop,tier!=cache").
// Namespaces and cluster-scoped definitions are not affected.
type LabelConfig struct {
	// Include keeps only what matches; empty keeps everything.
	Include string `json:"include"`
	// Exclude drops what matches; empty drops nothing.
	Exclude string `json:"exclude"`
}

// OwnedByCustom says what happens to objects that a custom resource controls.
type OwnedByCustom string

const (
	// OwnedAuto leaves them to their controller if the owner is collected itself.
	OwnedAuto OwnedByCustom = "Auto"
	// OwnedCollect collects them like everything else.
	OwnedCollect OwnedByCustom = "Collect"
	// OwnedSkip never collects them.
	OwnedSkip OwnedByCustom = "Skip"
)

// CleanConfig makes exceptions from cleaning.
type CleanConfig struct {
	// KeepFinalizers maps kind patterns to globs of finalizers that stay.
	KeepFinalizers map[string][]string `json:"keepFinalizers"`
	// KeepStatus lists kind patterns whose status stays.
	KeepStatus []string `json:"keepStatus"`
}

// OutboxConfig bounds what waits to be made durable.
type OutboxConfig struct {
	// MaxBytes bounds the bodies in memory. While the log is away and the bound is
	// reached, only names are kept and the objects are read again later.
	MaxBytes Bytes `json:"maxBytes"`
	// BatchEvents is the most events of one write, at most pipeline.MaxBatch.
	BatchEvents int `json:"batchEvents"`
	// BatchBytes bounds the bodies of one write, except that one event always goes.
	BatchBytes Bytes `json:"batchBytes"`
}

// Default returns the configuration that applies where the file says nothing.
func Default() Config {
	return Config{
		Namespaces:    NamespaceConfig{Include: []string{"*"}},
		Kinds:         KindConfig{Include: []string{"*"}},
		OwnedByCustom: OwnedAuto,
		Outbox:        OutboxConfig{MaxBytes: 32 << 20, BatchEvents: pipeline.MaxBatch, BatchBytes: 4 << 20},
		Heartbeat:     Duration(5 * time.Second),
		Discovery:     Duration(30 * time.Second),
	}
}

// ParseConfig reads YAML over the defaults. Unknown and repeated fields are
// errors; the result is validated.
func ParseConfig(text []byte) (Config, error) {
	c := Default()
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		return Config{}, fmt.Errorf("read configuration: %s", strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: "))
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// Validate reports everything that is wrong, each with the field and the cure.
func (c Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
	}
	for field, patterns := range map[string][]string{"namespaces.include": c.Namespaces.Include, "namespaces.exclude": c.Namespaces.Exclude} {
		for _, p := range patterns {
			if !namespacePattern.MatchString(p) {
				bad(field, "%q is neither a namespace nor a glob: use lower-case letters, digits, \"-\", \"*\" and \"?\"", p)
			}
		}
	}
	kinds := map[string][]string{
		"kinds.include": c.Kinds.Include, "kinds.exclude": c.Kinds.Exclude,
		"clean.keepStatus": c.Clean.KeepStatus, "clean.keepFinalizers": slices.Collect(maps.Keys(c.Clean.KeepFinalizers)),
	}
	for field, patterns := range kinds {
		for _, p := range patterns {
			if _, err := parseKindPattern(p); err != nil {
				bad(field, "%w", err)
			}
		}
	}
	if len(c.Namespaces.Include) == 0 {
		bad("namespaces.include", "is empty, so nothing would be collected: leave it out or write [\"*\"]")
	}
	if len(c.Kinds.Include) == 0 {
		bad("kinds.include", "is empty, so nothing would be collected: leave it out or write [\"*\"]")
	}
	for kind, globs := range c.Clean.KeepFinalizers {
		for _, g := range globs {
			if _, err := path.Match(g, ""); err != nil || g == "" {
				bad("clean.keepFinalizers", "%q of %s is not a glob: write a finalizer's name, or \"*\" for all", g, kind)
			}
		}
	}
	for field, text := range map[string]string{"labels.include": c.Labels.Include, "labels.exclude": c.Labels.Exclude} {
		if _, err := labels.Parse(text); err != nil {
			bad(field, "%q is not a label selector such as \"app=shop,tier!=cache\": %w", text, err)
		}
	}
	switch c.OwnedByCustom {
	case OwnedAuto, OwnedCollect, OwnedSkip:
	default:
		bad("ownedByCustom", "%q is unknown: use %s, %s or %s", c.OwnedByCustom, OwnedAuto, OwnedCollect, OwnedSkip)
	}
	if c.Outbox.MaxBytes < 1<<20 {
		bad("outbox.maxBytes", "is %d: at least 1Mi is needed", c.Outbox.MaxBytes)
	}
	if n := c.Outbox.BatchEvents; n < 2 || n > pipeline.MaxBatch {
		bad("outbox.batchEvents", "is %d: use 2 to %d", n, pipeline.MaxBatch)
	}
	if n := c.Outbox.BatchBytes; n < 1<<10 || n > 32<<20 {
		bad("outbox.batchBytes", "is %d: use 1Ki to 32Mi", n)
	}
	if d := time.Duration(c.Heartbeat); d < 100*time.Millisecond || d > 10*time.Minute {
		bad("heartbeat", "is %s: use 100ms to 10m", d)
	}
	if d := time.Duration(c.Discovery); d < time.Second || d > time.Hour {
		bad("discovery", "is %s: use 1s to 1h", d)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

var namespacePattern = regexp.MustCompile(`^[a-z0-9*?]([-a-z0-9*?]*[a-z0-9*?])?$`)

// kindPattern matches kinds. Empty parts of a plain pattern mean the core group.
type kindPattern struct {
	group, resource       string
	anyGroup, anyResource bool
}

// exact reports whether the pattern names one kind.
func (p kindPattern) exact() bool { return !p.anyGroup && !p.anyResource }

func (p kindPattern) matches(k pipeline.GroupResource) bool {
	return (p.anyGroup || p.group == k.Group) && (p.anyResource || p.resource == k.Resource)
}

var kindPart = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

func parseKindPattern(s string) (kindPattern, error) {
	if s == "*" {
		return kindPattern{anyGroup: true, anyResource: true}, nil
	}
	group, resource, hasGroup := strings.Cut(s, "/")
	if !hasGroup {
		group, resource = "", s
	}
	p := kindPattern{group: group, resource: resource, anyGroup: hasGroup && group == "*", anyResource: resource == "*"}
	groupOK := p.anyGroup || group == "" && !hasGroup || kindPart.MatchString(group)
	if !groupOK || !p.anyResource && !kindPart.MatchString(resource) {
		return p, fmt.Errorf("%q is not a kind: write the plural resource (\"configmaps\"), \"group/resource\" (\"apps/deployments\"), \"group/*\" or \"*\"", s)
	}
	return p, nil
}

// kindPatterns parses patterns that were validated before.
func kindPatterns(patterns []string) ([]kindPattern, error) {
	var parsed []kindPattern
	for _, s := range patterns {
		p, err := parseKindPattern(s)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, p)
	}
	return parsed, nil
}

func matchesKind(patterns []kindPattern, k pipeline.GroupResource) bool {
	return slices.ContainsFunc(patterns, func(p kindPattern) bool { return p.matches(k) })
}

// matchesGlob reports whether one of the globs matches name. The globs were
// validated, and names hold no "/" that a glob would have to cross.
func matchesGlob(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(g string) bool {
		if g == "*" || g == name {
			return true
		}
		ok, err := path.Match(strings.ReplaceAll(g, "/", "\x00"), strings.ReplaceAll(name, "/", "\x00"))
		return ok && err == nil
	})
}

// Duration is a time.Duration written like "5s".
type Duration time.Duration

// UnmarshalText reads "5s".
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as \"5s\" or \"1m\"", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes "5s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Bytes is a number of bytes, written plainly or with Ki, Mi or Gi.
type Bytes int64

// UnmarshalJSON reads 1048576, "1048576" or "1Mi".
func (b *Bytes) UnmarshalJSON(text []byte) error {
	s := string(text)
	if strings.HasPrefix(s, `"`) {
		if err := json.Unmarshal(text, &s); err != nil {
			return fmt.Errorf("read size: %w", err)
		}
	}
	digits, unit := s, int64(1)
	for i, suffix := range []string{"Ki", "Mi", "Gi"} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = rest, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > 1<<40/unit {
		return fmt.Errorf("%q is not a size such as 4194304 or \"4Mi\"", s)
	}
	*b = Bytes(n * unit)
	return nil
}
