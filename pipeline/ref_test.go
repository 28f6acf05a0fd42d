package pipeline_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestSubject(t *testing.T) {
	cases := map[string]struct {
		ref  pipeline.Ref
		want string
	}{
		"namespaced": {web, "drs.v1.prod-nyc.obj.apps.deployments.shop.web"},
		"core group": {pipeline.Ref{Site: "a", Resource: "pods", Namespace: "b", Name: "c"}, "drs.v1.a.obj._.pods.b.c"},
		"cluster scope": {
			pipeline.Ref{Site: "a", Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Name: "system:node"},
			"drs.v1.a.obj.rbac=2Eauthorization=2Ek8s=2Eio.clusterroles._.system=3Anode",
		},
		"wildcards":  {pipeline.Ref{Site: "*", Resource: ">", Namespace: "a b", Name: "."}, "drs.v1.=2A.obj._.=3E.a=20b.=2E"},
		"blank":      {pipeline.Ref{Site: "_", Group: "_", Resource: "_", Namespace: "_", Name: "_"}, "drs.v1.=5F.obj.=5F.=5F.=5F.=5F"},
		"underscore": {pipeline.Ref{Site: "a_b", Resource: "__", Name: "=5F"}, "drs.v1.a_b.obj._.__._.=3D5F"},
		"unicode":    {pipeline.Ref{Site: "a", Resource: "b", Name: "é"}, "drs.v1.a.obj._.b._.=C3=A9"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.ref.Subject(); got != tc.want {
				t.Errorf("Subject() = %q, want %q", got, tc.want)
			}
			if got, err := pipeline.ParseRef(tc.want); err != nil || got != tc.ref {
				t.Errorf("ParseRef(%q) = %v, %v", tc.want, got, err)
			}
		})
	}
}

func TestParseRefRefuses(t *testing.T) {
	cases := map[string]string{
		"empty":              "",
		"other prefix":       "foo.v1.a.obj._.pods.b.c",
		"other version":      "drs.v2.a.obj._.pods.b.c",
		"a mark":             "drs.v1.a.mark._.pods.b.c",
		"a heartbeat":        pipeline.HeartbeatSubject("a"),
		"too few":            "drs.v1.a.obj._.pods.b",
		"too many":           "drs.v1.a.obj._.pods.b.c.d",
		"empty token":        "drs.v1.a.obj._.pods..c",
		"wildcard":           "drs.v1.a.obj._.pods.b.*",
		"no site":            "drs.v1._.obj._.pods.b.c",
		"no resource":        "drs.v1.a.obj._._.b.c",
		"no name":            "drs.v1.a.obj._.pods.b._",
		"escape cut short":   "drs.v1.a.obj._.pods.b.c=2",
		"lower-case escape":  "drs.v1.a.obj._.pods.b.c=2e",
		"no hex":             "drs.v1.a.obj._.pods.b.c=2G",
		"needless escape":    "drs.v1.a.obj._.pods.b.=41",
		"escape of nothing":  "drs.v1.a.obj._.pods.b.=",
		"unescaped space":    "drs.v1.a.obj._.pods.b.c d",
		"unescaped unicode":  "drs.v1.a.obj._.pods.b.é",
		"escaped underscore": "drs.v1.a.obj._.pods.b.a=5Fb",
	}
	for name, subject := range cases {
		t.Run(name, func(t *testing.T) {
			if ref, err := pipeline.ParseRef(subject); !errors.Is(err, pipeline.ErrSubject) {
				t.Errorf("ParseRef(%q) = %+v, %v", subject, ref, err)
			}
		})
	}
}

func anyString(least int) *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.Map(rapid.SliceOfN(rapid.Byte(), least, 20), func(b []byte) string { return string(b) }),
		rapid.StringOfN(rapid.RuneFrom([]rune("_=.*>5FA-a: ")), least, 6, -1),
	)
}

func anyRef() *rapid.Generator[pipeline.Ref] {
	return rapid.Custom(func(t *rapid.T) pipeline.Ref {
		return pipeline.Ref{
			Site: anyString(1).Draw(t, "site"), Group: anyString(0).Draw(t, "group"), Resource: anyString(1).Draw(t, "resource"),
			Namespace: anyString(0).Draw(t, "namespace"), Name: anyString(1).Draw(t, "name"),
		}
	})
}

func TestSubjectRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ref := anyRef().Draw(t, "ref")
		subject := ref.Subject()
		if strings.Count(subject, ".") != 7 || strings.ContainsAny(subject, " \t\r\n*>") {
			t.Fatalf("subject %q is not eight plain tokens", subject)
		}
		got, err := pipeline.ParseRef(subject)
		if err != nil || got != ref {
			t.Fatalf("ParseRef(%q) = %+v, %v; want %+v", subject, got, err, ref)
		}
	})
}

func TestSubjectsAreUnique(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyRef().Draw(t, "a"), anyRef().Draw(t, "b")
		if (a.Subject() == b.Subject()) != (a == b) {
			t.Fatalf("%+v and %+v are %q and %q", a, b, a.Subject(), b.Subject())
		}
		if (a.Compare(b) == 0) != (a == b) || a.Compare(b) != -b.Compare(a) {
			t.Fatalf("Compare of %+v and %+v is %d and %d", a, b, a.Compare(b), b.Compare(a))
		}
	})
}

func FuzzParseRef(f *testing.F) {
	f.Add(web.Subject())
	f.Add("drs.v1.a.obj._.pods._.=5F")
	f.Add("drs.v1.=2A.obj.=.==.=zz.")
	f.Fuzz(func(t *testing.T, subject string) {
		ref, err := pipeline.ParseRef(subject)
		if err != nil {
			if !errors.Is(err, pipeline.ErrSubject) {
				t.Fatalf("ParseRef(%q): %v", subject, err)
			}
			return
		}
		if again := ref.Subject(); again != subject {
			t.Fatalf("ParseRef(%q) = %+v, whose subject is %q", subject, ref, again)
		}
	})
}

func FuzzUnescapeToken(f *testing.F) {
	for _, token := range []string{"", "_", "=5F", "a", "=2", "=zz", "=C3=A9", "=41"} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if s, err := pipeline.UnescapeToken(token); err == nil && pipeline.EscapeToken(s) != token {
			t.Fatalf("UnescapeToken(%q) = %q, which is escaped as %q", token, s, pipeline.EscapeToken(s))
		}
		if s, err := pipeline.UnescapeToken(pipeline.EscapeToken(token)); err != nil || s != token {
			t.Fatalf("%q escaped and back is %q, %v", token, s, err)
		}
	})
}

func TestObjectSubjects(t *testing.T) {
	got := []string{
		pipeline.ObjectSubjects("a.b", nil),
		pipeline.ObjectSubjects("a", &pipeline.GroupResource{Resource: "pods"}),
		pipeline.ObjectSubjects("a", &pipeline.GroupResource{Group: "apps", Resource: "deployments"}),
		pipeline.HeartbeatSubject("a.b"),
	}
	want := []string{
		"drs.v1.a=2Eb.obj.*.*.*.*", "drs.v1.a.obj._.pods.*.*", "drs.v1.a.obj.apps.deployments.*.*", "drs.v1.a=2Eb.mark.heartbeat",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRefString(t *testing.T) {
	for ref, want := range map[pipeline.Ref]string{
		web: "prod-nyc apps/deployments shop/web",
		{Site: "a", Resource: "namespaces", Name: "shop"}: "a namespaces shop",
	} {
		if got := ref.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}
