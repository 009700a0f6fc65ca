// Answers an HTTP request: edit the greeting while `hearth dev` runs.
export async function handler(event, context) {
  const name = event.queryStringParameters?.name ?? "world";
  return { message: `Hello, ${name}, from Node.js`, request: context.awsRequestId };
}
