package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// GroupResource names a kind of object the way the Kubernetes API paths do:
// the API group (empty for the core group) and the plural resource.
type GroupResource struct {
	Group    string `json:"group,omitempty"`
	Resource string `json:"resource"`
}

// String is "resource" for the core group and "group/resource" otherwise, the
// form that configuration files use.
func (g GroupResource) String() string {
	if g.Group == "" {
		return g.Resource
	}
	return g.Group + "/" + g.Resource
}

// Ref is the identity of one object and the unit of ordering: all Events of a
// Ref are applied in the order of the history, Events of different Refs in any
// order. Namespace is empty for cluster-scoped objects.
type Ref struct {
	Site      string
	Group     string
	Resource  string
	Namespace string
	Name      string
}

// GroupResource returns the kind of the object.
func (r Ref) GroupResource() GroupResource {
	return GroupResource{Group: r.Group, Resource: r.Resource}
}

// String is for people: "site group/resource namespace/name".
func (r Ref) String() string {
	name := r.Name
	if r.Namespace != "" {
		name = r.Namespace + "/" + r.Name
	}
	return r.Site + " " + r.GroupResource().String() + " " + name
}

// Compare orders Refs by site, kind, namespace and name.
func (r Ref) Compare(o Ref) int {
	return cmp.Or(
		cmp.Compare(r.Site, o.Site),
		cmp.Compare(r.Group, o.Group),
		cmp.Compare(r.Resource, o.Resource),
		cmp.Compare(r.Namespace, o.Namespace),
		cmp.Compare(r.Name, o.Name),
	)
}

// SubjectPrefix starts every subject of ours; its last token is the version of
// the subject scheme.
const SubjectPrefix = "drs.v1"

// ErrSubject reports a subject that this package did not write.
var ErrSubject = errors.New("not a DR-Syncer subject")

// blank stands for an empty token: the core group or cluster scope. It can be
// neither an escaped token, since "_" alone is escaped, nor a DNS label.
const blank = "_"

// Subject is the Ref's subject in the log: always eight tokens,
// drs.v1.<site>.obj.<group>.<resource>.<namespace>.<name>, so that wildcards
// and permissions by position work. See EscapeToken for what a token may hold.
func (r Ref) Subject() string {
	var room [256]byte // on the stack
	return string(r.appendSubject(room[:0]))
}

func (r Ref) appendSubject(b []byte) []byte {
	b = appendToken(append(b, SubjectPrefix+"."...), r.Site)
	b = appendToken(append(b, ".obj."...), r.Group)
	for _, token := range [...]string{r.Resource, r.Namespace, r.Name} {
		b = appendToken(append(b, '.'), token)
	}
	return b
}

// ParseRef is the inverse of Ref.Subject. It accepts only what Subject writes,
// so that two subjects never name one Ref; anything else is ErrSubject.
func ParseRef(subject string) (Ref, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 8 || tokens[0]+"."+tokens[1] != SubjectPrefix || tokens[3] != "obj" {
		return Ref{}, fmt.Errorf("%w: %q", ErrSubject, subject)
	}
	var values [5]string
	for i, n := range [...]int{2, 4, 5, 6, 7} {
		v, err := UnescapeToken(tokens[n])
		if err != nil {
			return Ref{}, fmt.Errorf("%w: %q: %w", ErrSubject, subject, err)
		}
		values[i] = v
	}
	ref := Ref{Site: values[0], Group: values[1], Resource: values[2], Namespace: values[3], Name: values[4]}
	if ref.Site == "" || ref.Resource == "" || ref.Name == "" {
		return Ref{}, fmt.Errorf("%w: %q: site, resource and name must not be empty", ErrSubject, subject)
	}
	return ref, nil
}

// HeartbeatSubject is the subject of a site's heartbeats.
func HeartbeatSubject(site string) string {
	return SubjectPrefix + "." + EscapeToken(site) + heartbeatSuffix
}

const heartbeatSuffix = ".mark.heartbeat"

// ObjectSubjects is the wildcard over all objects of a site, or of one kind of
// it when kind is not nil.
func ObjectSubjects(site string, kind *GroupResource) string {
	s := SubjectPrefix + "." + EscapeToken(site) + ".obj."
	if kind == nil {
		return s + "*.*.*.*"
	}
	return s + EscapeToken(kind.Group) + "." + EscapeToken(kind.Resource) + ".*.*"
}

const upperHex = "0123456789ABCDEF"

// EscapeToken makes any string one token of a subject, reversibly: letters,
// digits, "-" and "_" stay, every other byte becomes =XX in upper-case hex, the
// empty string is "_" and "_" itself is escaped. The escape sign is itself
// escaped, so different strings never collide. The alphabet is also legal in
// stream names and key-value keys.
func EscapeToken(s string) string {
	var room [64]byte // on the stack
	return string(appendToken(room[:0], s))
}

func appendToken(b []byte, s string) []byte {
	switch s {
	case "":
		return append(b, blank...)
	case blank:
		return append(b, "=5F"...)
	}
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '=', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// UnescapeToken is the inverse of EscapeToken. It refuses every token that
// EscapeToken would not have written.
func UnescapeToken(token string) (string, error) {
	if token == blank {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		c := token[i]
		if c != '=' {
			b.WriteByte(c)
			continue
		}
		c, err := unhex(token[i+1:])
		if err != nil {
			return "", err
		}
		b.WriteByte(c)
		i += 2
	}
	s := b.String()
	if EscapeToken(s) != token {
		return "", errors.New("token is not in its only form")
	}
	return s, nil
}

// unhex reads the two digits that s starts with.
func unhex(s string) (byte, error) {
	if len(s) < 2 {
		return 0, errors.New("escape cut short")
	}
	hi, lo := strings.IndexByte(upperHex, s[0]), strings.IndexByte(upperHex, s[1])
	if hi < 0 || lo < 0 {
		return 0, errors.New("escape is not upper-case hex")
	}
	return byte(hi<<4 | lo), nil //nolint:gosec // both are below 16
}
