package apply

import (
	"strings"
	"testing"
)

const ownedFields = `{"f:metadata":{"f:annotations":{"f:note":{},"f:x":{}},"f:labels":{"f:app":{},"f:x":{}},"f:finalizers":{"v:\"a/b\"":{}}},
"f:spec":{"f:replicas":{},"f:selector":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:image":{},"f:name":{},"f:command":{},
"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}},"f:volumes":{"k:{\"name\":\"tmp\"}":{".":{},"f:emptyDir":{},"f:name":{}}}}}}}`

const ownedBody = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop","uid":"x","annotations":{"note":"x"},"labels":{"app":"web"}},
"spec":{"replicas":2,"selector":{"matchLabels":{"app":"web"}},"template":{"spec":{"containers":[{"name":"web","image":"web:1","command":["a","b"],"ports":[{"containerPort":80}]}],
"volumes":[{"name":"tmp","emptyDir":{}}],"nodeSelector":null,"tolerations":[]}}}}`

func TestOwns(t *testing.T) {
	cases := map[string]struct {
		fields, body [2]string // what is replaced by what
		want         bool
		reason       string
	}{
		"all":                     {want: true, reason: "atomic, keyed, defaulted and empty parts are all covered"},
		"a scalar is taken":       {fields: [2]string{`"f:replicas":{},`, ``}},
		"a map is taken":          {fields: [2]string{`"f:selector":{},`, ``}},
		"a label is taken":        {fields: [2]string{`"f:app":{},`, ``}},
		"an annotation is taken":  {fields: [2]string{`"f:note":{},`, ``}},
		"a nested field is taken": {fields: [2]string{`"f:image":{},`, ``}},
		"a list item is taken":    {fields: [2]string{`k:{\"name\":\"tmp\"}`, `k:{\"name\":\"other\"}`}},
		"a port is taken":         {fields: [2]string{`\"containerPort\":80`, `\"containerPort\":81`}},
		"a number is no text":     {fields: [2]string{`\"containerPort\":80`, `\"containerPort\":\"80\"`}},
		"everything is taken":     {fields: [2]string{ownedFields, ``}},
		"more is wanted":          {body: [2]string{`"replicas":2`, `"replicas":2,"paused":true`}},
		"a new part is wanted":    {body: [2]string{`"spec":{"replicas"`, `"data":{"a":"b"},"spec":{"replicas"`}},
		"less is wanted":          {body: [2]string{`"replicas":2,`, ``}, want: true, reason: "that shows in the digest"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			fields, body := ownedFields, ownedBody
			if c.fields[0] != "" {
				fields = strings.Replace(fields, c.fields[0], c.fields[1], 1)
			}
			if c.body[0] != "" {
				body = strings.Replace(body, c.body[0], c.body[1], 1)
			}
			if c.fields[0] != "" && fields == ownedFields || c.body[0] != "" && body == ownedBody {
				t.Fatal("the case changes nothing")
			}
			if got := owns(fields, []byte(body)); got != c.want {
				t.Errorf("owns = %t, want %t: %s", got, c.want, c.reason)
			}
		})
	}
	t.Run("a set", func(t *testing.T) {
		fields := `{"f:list":{"v:\"a\"":{},"v:1":{}}}`
		for body, want := range map[string]bool{
			`{"list":["a",1]}`: true, `{"list":["a"]}`: true, `{"list":["b"]}`: false, `{"list":["1"]}`: false,
		} {
			if got := owns(fields, []byte(body)); got != want {
				t.Errorf("owns(%s) = %t, want %t", body, got, want)
			}
		}
	})
}

func BenchmarkOwns(b *testing.B) {
	body := []byte(ownedBody)
	b.ReportAllocs()
	for b.Loop() {
		owns(ownedFields, body)
	}
}

func FuzzOwns(f *testing.F) {
	f.Add(ownedFields, []byte(ownedBody))
	f.Add(`{"f:a":{"k:{":{}}}`, []byte(`{"a":[{}]}`))
	f.Fuzz(func(_ *testing.T, fields string, body []byte) {
		owns(fields, body) // what the server sends must not crash us
	})
}
