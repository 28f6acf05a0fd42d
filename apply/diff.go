package apply

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// The bounds of a diff.
const (
	maxDiffLines = 100
	maxDiffValue = 200
)

// Diff tells two states of an object apart, a line per field that differs: "-path: value" of the
// first and "+path: value" of the second, in the order of the paths. What the server keeps for itself and our
// own marks are left out; long values and diffs are cut. With secret no value of data, stringData and annotations is shown.
func Diff(before, after []byte, secret bool) []string {
	was, is := leaves(before), leaves(after)
	paths := slices.Sorted(maps.Keys(was))
	for path := range is {
		if _, both := was[path]; !both {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	var out []string
	for _, path := range paths {
		a, had := was[path]
		b, has := is[path]
		if had && has && a == b {
			continue
		}
		if len(out) >= maxDiffLines {
			return append(out, "... and more")
		}
		if had {
			out = append(out, "-"+path+": "+shown(path, a, secret))
		}
		if has {
			out = append(out, "+"+path+": "+shown(path, b, secret))
		}
	}
	return out
}

func shown(path, value string, secret bool) string {
	if secret && (strings.HasPrefix(path, "data") || strings.HasPrefix(path, "stringData") || strings.HasPrefix(path, "metadata.annotations")) {
		return "(hidden)"
	}
	if len(value) > maxDiffValue {
		return strings.ToValidUTF8(value[:maxDiffValue], "") + "..."
	}
	return value
}

// leaves are the scalar values of an object by their paths.
func leaves(body []byte) map[string]string {
	out := map[string]string{}
	var walk func(path string, v gjson.Result)
	walk = func(path string, v gjson.Result) {
		if ofServer[path] {
			return
		}
		i := 0
		switch {
		case v.IsObject():
			v.ForEach(func(k, v gjson.Result) bool {
				i++
				walk(join(path, k.String()), v)
				return true
			})
		case v.IsArray():
			v.ForEach(func(_, v gjson.Result) bool {
				walk(path+"["+strconv.Itoa(i)+"]", v)
				i++
				return true
			})
		}
		if i == 0 {
			out[path] = v.Raw
		}
	}
	walk("", gjson.ParseBytes(body))
	return out
}

func join(path, member string) string {
	if strings.ContainsAny(member, "./[]") {
		member = "[" + strconv.Quote(member) + "]"
		return path + member
	}
	if path == "" {
		return member
	}
	return path + "." + member
}

// ofServer are the paths that say nothing about what somebody wants.
var ofServer = map[string]bool{
	"status": true, "metadata.managedFields": true, "metadata.resourceVersion": true, "metadata.generation": true,
	"metadata.uid": true, "metadata.creationTimestamp": true, "metadata.selfLink": true,
	join("metadata.annotations", v1alpha1.AnnotationOrigin): true, join("metadata.annotations", v1alpha1.AnnotationDigest): true,
}
