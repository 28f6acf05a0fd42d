package main

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The thread that starts processes lives as long as the program: they would end with it.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/dr-syncer/dr-syncer/test/world.init.func1.1"))
}

func TestRefusesADirectoryOfOthers(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := prepareDir(dir); err == nil {
		t.Error("a directory with somebody's files was accepted")
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("somebody's file is gone: %v", err)
	}
}

func TestOneDemoPerDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	dir, release, err := prepareDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := prepareDir(dir); err == nil {
		t.Error("two demos in one directory")
	}
	release()
	_, release, err = prepareDir(dir)
	if err != nil {
		t.Fatalf("a directory that a demo has left is refused: %v", err)
	}
	release()
}
