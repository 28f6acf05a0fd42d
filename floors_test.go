package drsyncer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

const module = "github.com/dr-syncer/dr-syncer"

// A package imports packages of lower floors only, never of its own.
const (
	ground = iota - 1
	contracts
	parts
	sides
	frames
	programs
	// beside stands next to the house: it may import everything, nobody imports it.
	beside
)

// rooms is the plan of the house. A package that is not in it does not pass.
var rooms = map[string]room{
	"telemetry":               {floor: ground},
	"api/v1alpha1":            {floor: ground},
	"pipeline":                {floor: contracts},
	"transfer/stream":         {floor: contracts},
	"transfer/rsync":          {floor: contracts},
	"kube":                    {floor: parts},
	"pipeline/natslog":        {floor: parts},
	"pipeline/memlog":         {floor: parts},
	"transform":               {floor: parts},
	"collect":                 {floor: sides},
	"apply":                   {floor: sides},
	"replay":                  {floor: sides},
	"transfer":                {floor: sides},
	"control":                 {floor: frames},
	"internal/app":            {floor: frames},
	"cmd/*":                   {floor: programs},
	"telemetry/telemetrytest": {floor: contracts, kit: true},
	"pipeline/pipelinetest":   {floor: parts, kit: true},
	"kube/kubetest":           {floor: sides, kit: true},
	".":                       {floor: beside},
	"test/*":                  {floor: beside},
}

// room is where a package stands.
type room struct {
	floor int
	// kit is a test kit: for tests, other kits and what stands beside.
	kit bool
}

// homes says where a library may be imported: the longest prefix of the import
// path counts. Tests, test kits and what stands beside the house are free to
// use any library that has a home.
var homes = map[string]home{
	"github.com/nats-io":           {in: []string{"pipeline/natslog", "transfer/stream"}},
	"github.com/synadia-io":        {in: []string{"pipeline/natslog"}},
	"github.com/minio/highwayhash": {in: []string{"pipeline/natslog"}},
	"github.com/itchyny/gojq":      {in: []string{"transform"}},
	"github.com/klauspost":         {in: []string{"pipeline"}},
	"github.com/oklog/ulid":        {in: []string{"pipeline", "pipeline/natslog", "pipeline/memlog"}},
	"github.com/tidwall":           {in: []string{"kube", "collect", "apply", "transform"}},
	"github.com/cenkalti/backoff":  {in: []string{"pipeline", "pipeline/natslog", "kube", "collect", "apply", "replay"}},
	"github.com/fsnotify/fsnotify": {in: []string{"internal/app"}},
	"github.com/robfig/cron":       {in: []string{"replay"}},
	"github.com/go-logr":           {in: []string{"telemetry", "kube", "control"}},
	"github.com/prometheus":        {in: []string{"telemetry", "telemetry/telemetrytest"}},
	"go.opentelemetry.io":          {in: []string{"telemetry", "telemetry/telemetrytest"}},
	"github.com/spf13":             {in: []string{"internal/app", "cmd/*"}},
	"golang.org/x":                 {in: []string{"*"}},
	"k8s.io/client-go":             {in: []string{"kube", "kube/kubetest"}},
	"k8s.io/apimachinery":          {in: []string{"kube", "kube/kubetest", "api/v1alpha1", "transfer", "control", "cmd/*"}},
	"k8s.io/apimachinery/pkg/labels": {
		in: []string{"kube", "collect", "apply", "control"},
	},
	// The Replication's label selectors are of this package.
	"k8s.io/apimachinery/pkg/apis/meta/v1": {
		in: []string{"kube", "kube/kubetest", "api/v1alpha1", "apply", "transfer", "control", "cmd/*"},
	},
	"k8s.io/api":           {in: []string{"control", "kube", "transfer"}},
	"k8s.io/apiextensions": {in: []string{"kube"}},
	"k8s.io/klog":          {in: []string{"kube", "control", "cmd/*"}},
	"k8s.io/utils":         {in: []string{"kube", "control"}},
	"sigs.k8s.io/controller-runtime": {
		in: []string{"control", "cmd/applier"},
	},
	"sigs.k8s.io/yaml": {in: []string{"collect", "kube/kubetest", "internal/app", "cmd/*"}},
	// For the line and column of what is wrong in a rule.
	"go.yaml.in/yaml": {in: []string{"transform"}},
	"os/exec": {
		in: []string{"transfer/rsync", "kube/kubetest"}, alsoTests: true,
		inTests: []string{"pipeline/natslog"}, // runs a nats-server of its own
	},
	"github.com/google/go-cmp": {test: true},
	"go.uber.org/goleak":       {test: true},
	"pgregory.net/rapid":       {test: true},
	"github.com/rogpeppe":      {test: true},
}

// home is where a library may be imported.
type home struct {
	in []string
	// test marks a library of the tests.
	test bool
	// alsoTests says that tests and kits are held to it too; they are free otherwise.
	alsoTests bool
	// inTests are packages whose tests are excepted from alsoTests.
	inTests []string
}

// forbidden names say nothing about what is inside.
var forbidden = []string{"util", "utils", "common", "helper", "helpers", "types", "misc", "shared"}

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath                         string
	Name, Doc                          string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFloors(t *testing.T) {
	for _, p := range list(t) {
		for _, problem := range check(p) {
			t.Error(problem)
		}
	}
}

// list asks the go command for every package of the module.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Doc,GoFiles,Imports,TestImports,XTestImports", "./...")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("list packages: %v: %s", err, exit.Stderr)
		}
		t.Fatalf("list packages: %v", err)
	}
	var packages []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("read what go list says: %v", err)
		}
		packages = append(packages, p)
	}
}

// check returns what is wrong with a package, one sentence with its cure each.
func check(p listed) []string {
	name := inside(p.ImportPath)
	r, known := find(rooms, name)
	if !known {
		return []string{fmt.Sprintf("%s: the package stands on no floor: give it one in the table of floors_test.go", name)}
	}
	var problems []string
	for part := range strings.SplitSeq(name, "/") {
		if slices.Contains(forbidden, part) {
			problems = append(problems, fmt.Sprintf("%s: %q says nothing about what is inside: name it for what it does", name, part))
		}
	}
	if !slices.Contains(p.GoFiles, "doc.go") || p.Doc == "" {
		problems = append(problems, fmt.Sprintf("%s: no doc.go that says in its first sentence what the package is for", name))
	}
	for _, imported := range p.Imports {
		problems = append(problems, checkImport(name, r, imported, false)...)
	}
	for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
		problems = append(problems, checkImport(name, r, imported, true)...)
	}
	return problems
}

// checkImport returns what is wrong with one import of the package or, with test, of its tests.
func checkImport(name string, from room, imported string, test bool) []string {
	free := test || from.kit || from.floor == beside // it may use what is for tests
	if !strings.HasPrefix(imported+"/", module+"/") {
		return checkLibrary(name, from, imported, free)
	}
	target := inside(imported)
	to, known := find(rooms, target)
	switch {
	case !known, target == name: // said where the target is checked; a test of the package itself
		return nil
	case to.kit && !free:
		return []string{fmt.Sprintf("%s imports %s: a test kit is for tests", name, target)}
	case to.kit, from.floor == beside:
		return nil
	case to.floor == from.floor && test: // a test may set the neighbor to work
		return nil
	case to.floor == from.floor:
		return []string{fmt.Sprintf("%s imports %s sideways: both stand on floor %d. Declare the interface you need and let cmd pass it in", name, target, from.floor)}
	case to.floor > from.floor:
		return []string{fmt.Sprintf("%s (floor %d) imports %s (floor %d) upward: imports go down", name, from.floor, target, to.floor)}
	}
	return nil
}

// checkLibrary holds an import from outside the module to the library's home.
func checkLibrary(name string, from room, imported string, free bool) []string {
	h, known := homeOf(imported)
	switch {
	case !known && !strings.Contains(strings.Split(imported, "/")[0], "."): // the standard library
		return nil
	case !known:
		return []string{fmt.Sprintf("%s imports %s: the library has no home: give it one in the table of floors_test.go", name, imported)}
	case from.floor == beside, slices.Contains(h.in, "*"), slices.ContainsFunc(h.in, func(in string) bool { return matches(in, name) }):
		return nil
	case free && (!h.alsoTests || slices.Contains(h.inTests, name)):
		return nil
	case h.test:
		return []string{fmt.Sprintf("%s imports %s: that is for tests", name, imported)}
	}
	return []string{fmt.Sprintf("%s imports %s: its home is %s. Ask the home for what you need", name, imported, strings.Join(h.in, ", "))}
}

func homeOf(imported string) (home, bool) {
	for p := imported; p != "."; p = path.Dir(p) {
		for prefix, h := range homes {
			// A major version (.../v2) and a sibling (k8s.io/apiextensions-apiserver) belong to the prefix.
			if p == prefix || strings.HasPrefix(p, prefix+"-") {
				return h, true
			}
		}
	}
	return home{}, false
}

// find looks a package up by its path or by the pattern of a folder.
func find(table map[string]room, name string) (room, bool) {
	if r, ok := table[name]; ok {
		return r, true
	}
	for pattern, r := range table {
		if matches(pattern, name) {
			return r, true
		}
	}
	return room{}, false
}

// matches says whether name is pattern, or below it when it ends in "/*".
func matches(pattern, name string) bool {
	folder, isFolder := strings.CutSuffix(pattern, "*")
	return pattern == name || isFolder && strings.HasPrefix(name, folder)
}

// inside is an import path within the module, "." for its root.
func inside(importPath string) string {
	if importPath == module {
		return "."
	}
	return strings.TrimPrefix(importPath, module+"/")
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	good := listed{ImportPath: module + "/apply", Doc: "Package apply applies.", GoFiles: []string{"doc.go"}}
	cases := map[string]struct {
		change func(*listed)
		want   []string
	}{
		"Downward": {func(p *listed) { p.Imports = []string{"fmt", module + "/pipeline", module + "/kube"} }, nil},
		"Sideways": {
			func(p *listed) { p.Imports = []string{module + "/replay"} },
			[]string{"apply imports replay sideways: both stand on floor 2. Declare the interface you need and let cmd pass it in"},
		},
		"Upward": {
			func(p *listed) { p.Imports = []string{module + "/control"} },
			[]string{"apply (floor 2) imports control (floor 3) upward: imports go down"},
		},
		"KitInTest":      {func(p *listed) { p.XTestImports = []string{module + "/kube/kubetest"} }, nil},
		"NeighborInTest": {func(p *listed) { p.XTestImports = []string{module + "/replay"} }, nil},
		"KitInProduct": {
			func(p *listed) { p.Imports = []string{module + "/kube/kubetest"} },
			[]string{"apply imports kube/kubetest: a test kit is for tests"},
		},
		"BesideFromProduct": {
			func(p *listed) { p.Imports = []string{module + "/test/demo"} },
			[]string{"apply (floor 2) imports test/demo (floor 5) upward: imports go down"},
		},
		"LibraryOutsideItsHome": {
			func(p *listed) { p.Imports = []string{"github.com/nats-io/nats.go/jetstream"} },
			[]string{"apply imports github.com/nats-io/nats.go/jetstream: its home is pipeline/natslog, transfer/stream. Ask the home for what you need"},
		},
		"LibraryAtHome":     {func(p *listed) { p.Imports = []string{"github.com/tidwall/gjson"} }, nil},
		"LongestPrefix":     {func(p *listed) { p.Imports = []string{"k8s.io/apimachinery/pkg/labels"} }, nil},
		"TestLibraryInTest": {func(p *listed) { p.TestImports = []string{"github.com/google/go-cmp/cmp"} }, nil},
		"TestLibraryInProduct": {
			func(p *listed) { p.Imports = []string{"github.com/google/go-cmp/cmp"} },
			[]string{"apply imports github.com/google/go-cmp/cmp: that is for tests"},
		},
		"ProcessInTest": {
			func(p *listed) { p.TestImports = []string{"os/exec"} },
			[]string{"apply imports os/exec: its home is transfer/rsync, kube/kubetest. Ask the home for what you need"},
		},
		"Homeless": {
			func(p *listed) { p.TestImports = []string{"github.com/stretchr/testify/assert"} },
			[]string{"apply imports github.com/stretchr/testify/assert: the library has no home: give it one in the table of floors_test.go"},
		},
		"NoFloor": {
			func(p *listed) { p.ImportPath = module + "/attic" },
			[]string{"attic: the package stands on no floor: give it one in the table of floors_test.go"},
		},
		"EmptyName": {
			func(p *listed) { p.ImportPath = module + "/cmd/utils" },
			[]string{`cmd/utils: "utils" says nothing about what is inside: name it for what it does`},
		},
		"NoDoc": {
			func(p *listed) { p.GoFiles = []string{"apply.go"} },
			[]string{"apply: no doc.go that says in its first sentence what the package is for"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := good
			tc.change(&p)
			if diff := cmp.Diff(tc.want, check(p)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}
