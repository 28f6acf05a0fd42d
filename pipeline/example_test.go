package pipeline_test

import (
	"fmt"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func ExampleRef_Subject() {
	fmt.Println(pipeline.Ref{Site: "prod", Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"}.Subject())
	fmt.Println(pipeline.Ref{Site: "prod", Resource: "nodes", Name: "node1.example.com"}.Subject())
	// Output:
	// drs.v1.prod.obj.apps.deployments.shop.web
	// drs.v1.prod.obj._.nodes._.node1=2Eexample=2Ecom
}

func ExampleEncode() {
	body := []byte(`{"apiVersion":"v1","kind":"ConfigMap"}`)
	m, err := pipeline.Encode(pipeline.Event{
		Ref: pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "shop", Name: "settings"},
		Op:  pipeline.OpPut, UID: "0b8a3f0e", Version: "4711", APIVersion: "v1", Kind: "ConfigMap",
		Observed: time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC), Digest: pipeline.DigestOf(body), Body: body,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Subject)
	fmt.Println(m.Header[pipeline.HeaderType][0], m.Header[pipeline.HeaderSubject][0], m.Header[pipeline.HeaderID][0])
	// Output:
	// drs.v1.prod.obj._.configmaps.shop.settings
	// io.dr-syncer.put configmaps/shop/settings 0b8a3f0e/4711/put
}
