package collect_test

import (
	"fmt"

	"github.com/dr-syncer/dr-syncer/collect"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

func Example() {
	cfg, err := collect.ParseConfig([]byte(`namespaces: {include: ["shop-*"]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	selector, err := collect.NewSelector(cfg, "dr-syncer")
	if err != nil {
		fmt.Println(err)
		return
	}
	cleaner, err := collect.NewCleaner(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	kind := kube.Kind{GroupResource: pipeline.GroupResource{Resource: "configmaps"}, Version: "v1", Kind: "ConfigMap", Namespaced: true}
	for _, object := range []string{
		`{"metadata":{"name":"a","namespace":"shop-eu","uid":"7","resourceVersion":"12"},"data":{"ratio":"1.50"}}`,
		`{"metadata":{"name":"kube-root-ca.crt","namespace":"shop-eu","uid":"8"},"data":{}}`,
	} {
		verdict, err := selector.Decide(kind, []byte(object))
		if err != nil {
			fmt.Println(err)
			return
		}
		if verdict.Action != collect.Collect {
			fmt.Println("not collected:", verdict.Reason)
			continue
		}
		clean, err := cleaner.Clean(kind, []byte(object))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(string(clean))
	}
	// Output:
	// {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"shop-eu"},"data":{"ratio":"1.50"}}
	// not collected: published by each cluster
}
