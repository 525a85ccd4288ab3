/* Says hello from C, on the socket that funcd passes as descriptor 3: one request per connection, which is the least that
 * HTTP asks for. Build: cc -O2 -static -o hello hello.c (or without -static: funcd finds the libraries it needs). */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nConnection: close\r\n\r\nhello from C\n";

int main(void)
{
	char request[65536];

	for (;;) {
		int caller = accept(3, NULL, NULL);
		size_t length = 0;
		ssize_t n;

		if (caller < 0)
			continue;
		/* Up to the end of the head; bodies are not read. */
		while (length < sizeof(request) - 1 && (n = read(caller, request + length, sizeof(request) - 1 - length)) > 0) {
			length += (size_t)n;
			request[length] = 0;
			if (strstr(request, "\r\n\r\n"))
				break;
		}
		if (length > 0 && write(caller, answer, sizeof(answer) - 1) < 0)
			perror("write");
		close(caller);
	}
}
