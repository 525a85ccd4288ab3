// Says hello from Go, on the socket that funcd passes as descriptor 3; run by hand, on $PORT or 8080 of this machine.
// Build: CGO_ENABLED=0 go build -o hello main.go
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
)

func listener() (net.Listener, error) {
	if os.Getenv("LISTEN_FDS") != "" {
		return net.FileListener(os.NewFile(3, "http"))
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	return net.Listen("tcp", ":"+port)
}

func main() {
	l, err := listener()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from Go %s: %s\n", runtime.Version(), r.URL.Path)
	})
	log.Fatal(http.Serve(l, nil))
}
