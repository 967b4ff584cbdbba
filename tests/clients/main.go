// What the Go client makes of the vectors, as JSON: `go run` of a copy of the package with this as its main.
package main

import (
	"encoding/json"
	"os"
	"time"

	"sendimage"
)

type row struct {
	Ref, Spec, Download string
	PresetSet           string `json:"preset_set"`
	Filename            *string
	Expires             int64
	Now                 int64
	ExpiresIn           int64 `json:"expires_in"`
	Window              int64
}

func (r row) options() *sendimage.Options {
	return &sendimage.Options{Expires: r.Expires, Download: r.Download, Filename: r.Filename}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	var vectors struct {
		Key, Prefix                   string
		PublicURL                     string `json:"public_url"`
		Presets                       map[string]string
		PresetSets                    map[string][]string `json:"preset_sets"`
		URLs, Sets, Expiries, Refused []row
	}
	if err := json.Unmarshal(must(os.ReadFile(os.Args[1])), &vectors); err != nil {
		panic(err)
	}
	images := sendimage.Signer{
		Key: []byte(vectors.Key), PublicURL: vectors.PublicURL, Prefix: vectors.Prefix,
		Presets: vectors.Presets, PresetSets: vectors.PresetSets,
	}
	var said struct {
		URLs     []string            `json:"urls"`
		Sets     []map[string]string `json:"sets"`
		Expiries []int64             `json:"expiries"`
		Refused  []any               `json:"refused"`
		Window   string              `json:"window"`
		Half     bool                `json:"half"`
	}
	for _, r := range vectors.URLs {
		said.URLs = append(said.URLs, must(images.URL(r.Ref, r.Spec, r.options())))
	}
	for _, r := range vectors.Sets {
		said.Sets = append(said.Sets, must(images.URLs(r.Ref, r.PresetSet, r.options())))
	}
	for _, r := range vectors.Expiries {
		seconds := func(n int64) time.Duration { return time.Duration(n) * time.Second }
		said.Expiries = append(said.Expiries, sendimage.Expiry(time.Unix(r.Now, 0), seconds(r.ExpiresIn), seconds(r.Window)))
	}
	for _, r := range vectors.Refused {
		if url, err := images.URL(r.Ref, r.Spec, r.options()); err == nil {
			said.Refused = append(said.Refused, url)
		} else {
			said.Refused = append(said.Refused, true)
		}
	}
	said.Window = must(images.URL("42", "width-1", &sendimage.Options{ExpiresIn: time.Minute}))
	_, err := images.URL("media/\xff.jpg", "width-1", nil)
	said.Half = err != nil
	os.Stdout.Write(must(json.Marshal(said)))
}
