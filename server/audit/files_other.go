//go:build !unix

package audit

import (
	"fmt"
	"io/fs"
)

// Where access lists stand in for mode bits, a file is as private as the directory it
// was made in.

func checkFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	return nil
}

func checkDir(path string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", path)
	}
	return nil
}
