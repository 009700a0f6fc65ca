// Does what the query asks: answers or fails.
export async function handler(event, context) {
  const task = event.queryStringParameters?.do ?? "answer";
  if (task === "raise") throw new TypeError("asked to raise");
  console.log("node works on", task);
  return { runtime: "nodejs", requestId: context.awsRequestId, method: event.requestContext?.http?.method };
}
