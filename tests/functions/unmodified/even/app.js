// Asks a package, and the packages below it, from the registry.
import isEven from "is-even";

export const handler = async (event) => ({ even: isEven(Number(event.queryStringParameters.number)) });
