package apply

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func anyOrigin() *rapid.Generator[Origin] {
	return rapid.Custom(func(t *rapid.T) Origin {
		return Origin{
			Site:      rapid.StringN(1, -1, 40).Draw(t, "site"),
			Position:  pipeline.Position{Epoch: rapid.String().Draw(t, "epoch"), Seq: rapid.Uint64().Draw(t, "seq")},
			UID:       rapid.StringN(1, -1, 40).Draw(t, "uid"),
			Namespace: rapid.String().Draw(t, "namespace"),
			Name:      rapid.String().Draw(t, "name"),
		}
	})
}

func TestOriginSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyOrigin().Draw(t, "origin")
		got, err := ParseOrigin(want.String())
		if err != nil {
			t.Fatalf("ParseOrigin(%q): %v", want, err)
		}
		if got != want {
			t.Fatalf("got %#v, want %#v", got, want)
		}
	})
}

func TestParseOriginRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":               "",
		"four parts":          "a/b/1/c",
		"seven parts":         "a/b/1/c/d/e/f",
		"empty name":          "a/b/1/c/d/_",
		"no site":             "_/b/1/c/d",
		"no uid":              "a/b/1/_/d",
		"sequence with zero":  "a/b/01/c/d",
		"sequence with plus":  "a/b/+1/c/d",
		"sequence too large":  "a/b/18446744073709551616/c/d",
		"escape in lowercase": "a=2e/b/1/c/d",
		"needless escape":     "=61/b/1/c/d",
		"plain dot":           "a.b/b/1/c/d",
	} {
		t.Run(name, func(t *testing.T) {
			if o, err := ParseOrigin(text); err == nil {
				t.Errorf("ParseOrigin(%q) = %#v, want an error", text, o)
			}
		})
	}
}

func FuzzParseOrigin(f *testing.F) {
	f.Add("prod-nyc/01HZZZZZZZZZZZZZZZZZZZZZZZ/42/2f3c5f0e-0000-4000-8000-000000000000/shop")
	f.Add("a=2Eb/e/0/u/_")
	f.Fuzz(func(t *testing.T, text string) {
		if o, err := ParseOrigin(text); err == nil && o.String() != text {
			t.Errorf("ParseOrigin(%q) accepts what String writes as %q", text, o.String())
		}
	})
}

func TestMark(t *testing.T) {
	long := strings.Repeat("x", 80)
	for name, c := range map[string]struct{ namespace, name, want string }{
		"short":           {"dr", "shop", "dr.shop"},
		"exactly full":    {"dr", long[:60], "dr." + long[:60]},
		"one too many":    {"dr", long[:61], "dr." + long[:43] + "-"},
		"name with a dot": {"dr", "a.b", "dr.a.b"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Mark(c.namespace, c.name)
			if !strings.HasPrefix(got, c.want) || len(got) > 63 || len(c.want) < 63 && !strings.HasSuffix(c.want, "-") && got != c.want {
				t.Errorf("Mark(%q, %q) = %q (%d characters), want %q", c.namespace, c.name, got, len(got), c.want)
			}
		})
	}
	if Mark("dr", long) == Mark("dr", long+"y") {
		t.Error("two long names have one mark")
	}
}
